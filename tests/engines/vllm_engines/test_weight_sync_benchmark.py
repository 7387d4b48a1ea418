"""The benchmark of weights on their way to a server runs as its text says and ends in the line that is compared."""

from __future__ import annotations

import re

from benchmarks import weight_sync


def test_it_names_messages_and_updates_and_compares_them(monkeypatch, capsys):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    sizes = "--repeats 1 --layers 2 --hidden 128 --vocabulary 512 --experts 64 --rank 8"
    monkeypatch.setattr("sys.argv", ["weight_sync", *sizes.split()])
    weight_sync.main()
    out = capsys.readouterr().out
    assert "Messages alone: 26 tensors of the model, 64 of experts." in out
    assert (
        len(re.findall(r"^\| .*(?:buckets|message a tensor) \| [\d.]+ \([\d.]+ to [\d.]+\) \|", out, re.MULTILINE)) == 8
    )
    value = r"[\d.]+ \([\d.]+ to [\d.]+\)"
    assert re.search(
        rf"messages: model {value}, experts {value}; updates: {value}; adapter alone to all weights: {value}\n$", out
    )
