"""vLLM in the training process: one engine per rank, on the rank's GPU or CPU."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import atexit
import gc
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch

from lit_tpgrpo import distributed
from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.engines.base import Completion, Policy, SamplingParams
from lit_tpgrpo.engines.checks import check_lengths, stop_ids
from lit_tpgrpo.engines.vllm import process_groups
from lit_tpgrpo.engines.vllm.engine_arguments import engine_arguments
from lit_tpgrpo.engines.vllm.environment import (
    import_vllm,
    isolated_call,
    on_cpu,
    preserve_process_state,
    scratch_folder,
)
from lit_tpgrpo.engines.vllm.sampling import (
    repeat_greedy,
    request_settings,
    to_completion,
)
from lit_tpgrpo.engines.vllm.weight_forms import ADAPTER, ADAPTER_ID, FormName, weight_form
from lit_tpgrpo.errors import ConfigError, EngineError

log = logging.getLogger(__name__)


@checked_arguments()
class VLLMEngine:
    """Engine on vLLM in this process; each ``load_weights`` copies the policy's weights into it, tensor by tensor.

    vLLM is built at the first ``load_weights``, from the policy's configuration and tokenizer, with dummy weights: it can
    only sample after the policy's weights were loaded. On GPUs it sleeps while the trainer runs.

    Args:
        max_model_len: most tokens of prompt and completion together; None: the model's positions. Less needs less KV cache.
        max_num_seqs: sequences decoded at once.
        dtype: dtype of vLLM's weights and arithmetic; ``auto`` is the compute dtype of training (bfloat16 under
            bf16-mixed). Merged adapters need ``float32``: bfloat16 rounds their small updates away.
        adapter: how the policy's LoRA adapter is handed over: ``separate``, beside the weights, which are copied once (again
            after a sleep of level 2); ``merged`` into them, each time. vLLM's GPU kernels for a separate one need a dtype of
            16 bits.
        gpu_memory_utilization: share of the GPU's memory for vLLM's weights and KV cache together while it is awake.
        kv_cache_gib: size of the KV cache in GiB; None: the rest of that share, or 1 on a CPU.
        prefix_caching: reuse the KV cache of common prefixes, e.g. of the G samples of one prompt.
        enforce_eager: disable compilation and CUDA graphs; None: on a CPU only.
        sleep_level: what ``sleep`` frees on a GPU: 2 the weights and the KV cache, 1 the same but with the weights kept in
            host memory, 0 nothing. Weights are loaded again before each use, so 2 loses nothing.
        options: further arguments of ``vllm.EngineArgs``, e.g. ``{"max_num_batched_tokens": 8192}``.
    """

    mismatched = True  # its kernels differ from the trainer's: see ``Engine`` in lit_tpgrpo.engines.base

    def __init__(
        self,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        adapter: FormName = "separate",
        gpu_memory_utilization: float = 0.5,
        kv_cache_gib: float | None = None,
        prefix_caching: bool = True,
        enforce_eager: bool | None = None,
        sleep_level: Literal[0, 1, 2] = 2,
        options: dict[str, Any] | None = None,
    ) -> None:
        if max_num_seqs < 1 or (max_model_len is not None and max_model_len < 2):
            raise ConfigError(
                f"VLLMEngine needs max_num_seqs >= 1 and max_model_len >= 2, got {max_num_seqs} and {max_model_len}"
            )
        if not 0 < gpu_memory_utilization <= 1:
            raise ConfigError(f"gpu_memory_utilization must lie in (0, 1], got {gpu_memory_utilization}")
        self.max_model_len = max_model_len
        self.max_num_seqs = max_num_seqs
        self.dtype = dtype
        self.adapter: FormName = adapter
        self.gpu_memory_utilization = gpu_memory_utilization
        self.kv_cache_gib = kv_cache_gib
        self.prefix_caching = prefix_caching
        self.enforce_eager = enforce_eager
        self.sleep_level = sleep_level
        self.options = dict(options or {})
        self._engine: Any = None
        self._policy: Policy | None = None
        self._device = torch.device("cpu")
        self._asleep: set[str] = set()  # which of vLLM's two kinds of memory are freed
        self._loaded = False  # whether all of its weights are of one policy version
        self._base = ""  # fingerprint of its weights, if the policy's adapter is beside them
        self._max_rank, self._adapted = 0, False  # of adapters that it was built for; whether requests name one
        self._requests = 0

    # ---- weights ----

    def load_weights(self, policy: Policy) -> None:
        """Copy the policy's current weights into vLLM, and build it if necessary. Collective if the policy is sharded.

        Raises:
            EngineError: not all weights were loaded. vLLM is then shut down, because a partly loaded model cannot be
                repaired; the next ``load_weights`` builds it again.
        """
        import_vllm()
        from lit_tpgrpo.engines.vllm.updates import update_worker

        form = weight_form(self.adapter)
        rank = form.update(policy, "").rank
        if rank > self._max_rank:  # built for a policy without an adapter, or with a smaller one
            self.close()
        engine = self._engine or self._build(policy, rank)
        update = form.update(policy, self._base)
        self._policy, self._loaded, self._base = policy, False, ""
        version = str(policy.policy_version)
        with isolated_call(self._device):
            self._wake("weights")
            try:
                engine.collective_rpc(update_worker, args=(update.tensors(),))
                engine.set_weight_version(version)
                cache_reset = engine.reset_prefix_cache()
            except Exception as error:
                self.close()
                raise EngineError(
                    f"vLLM did not load the policy's weights of step {version}: {error}. It is shut down, so that nothing is "
                    "sampled from old weights; a model whose weights vLLM names differently than transformers needs HFEngine"
                ) from error
        if not cache_reset or engine.get_weight_version() != version:
            raise EngineError(
                f"vLLM holds weights of step {engine.get_weight_version()} after those of step {version} were sent"
                + (
                    ""
                    if cache_reset
                    else ", and its prefix cache could not be reset, because requests are still running"
                )
            )
        self._loaded, self._base, self._adapted = True, update.base, update.rank > 0

    def _build(self, policy: Policy, rank: int) -> Any:
        import_vllm()
        from vllm import EngineArgs  # pyright: ignore[reportAttributeAccessIssue]
        from vllm.v1.engine.llm_engine import LLMEngine

        model = policy.policy_model
        cpu = on_cpu()
        if cpu and model.device.type != "cpu":
            raise ConfigError(
                f"the policy is on {model.device} and the installed vLLM is the CPU build; install the one in "
                "requirements-vllm.txt, or set trainer.accelerator to cpu"
            )
        # The model may be in host memory, e.g. that of a judge that is not trained.
        gpu = (
            model.device if model.device.type == "cuda" else torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        )
        self._device = torch.device("cpu") if cpu else gpu
        if cpu:
            log.info("vLLM cannot free memory on a CPU: it keeps its weights and KV cache while the trainer runs")
        process_groups.before_build()
        with scratch_folder() as folder, preserve_process_state():
            arguments = engine_arguments(self, policy, rank, cpu, folder)
            self._max_rank = arguments.get("max_lora_rank", 0)
            # One of many ranks, or not on the first GPU: vLLM learns its rank and device from torchrun's variables.
            external = distributed.world_size() > 1 or bool(self._device.index)
            if external:
                arguments["distributed_executor_backend"] = "external_launcher"
            with process_groups.launcher_environment(self._device) if external else nullcontext():
                self._engine = LLMEngine.from_engine_args(EngineArgs(**{**arguments, **self.options}))
        process_groups.register(self._engine)
        atexit.register(self.close)
        return self._engine

    # ---- sampling ----

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Yield ``(prompt index, n completions)`` as prompts finish. Closing the iterator aborts its requests.

        Log-probs are vLLM's processed ones: after the temperature and, unlike the HF engine's, after ``top_p`` and
        ``top_k``.

        Raises:
            InputError: a prompt is empty, or prompt plus ``max_new_tokens`` exceeds ``max_model_len``.
            EngineError: no weights were loaded, or the last ``load_weights`` failed.
        """
        if not self._loaded or self._policy is None:
            raise EngineError("VLLMEngine.sample was called without weights: load_weights was not called, or it failed")
        self.wake()
        model = self._policy.policy_model
        limit = cast(int, self._engine.model_config.max_model_len)
        check_lengths(prompts, params.max_new_tokens, limit)
        end_ids = sorted({*stop_ids(model, cast(int | None, self._policy.tokenizer.eos_token_id)), *params.stop_ids})
        told_apart = end_ids if params.stop else None
        engine, pending = self._engine, self._add(prompts, n, params, seeds, end_ids)
        try:
            while pending:
                with isolated_call(self._device):
                    outputs = engine.step()
                for output in outputs:
                    if output.finished:
                        completions = [
                            to_completion(c.token_ids, _sampled_logprobs(c.logprobs), c.finish_reason, told_apart)
                            for c in output.outputs
                        ]
                        yield pending.pop(output.request_id), repeat_greedy(completions, n)
        finally:
            if pending and self._engine is engine:
                engine.abort_request(list(pending))

    def _add(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        end_ids: Sequence[int],
    ) -> dict[str, int]:
        """Queue one request per prompt; return request id -> prompt index. vLLM gives the n samples consecutive seeds."""
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.sampling_params import SamplingParams as VLLMParams

        # It is in the workers' memory; vLLM wants a path all the same.
        lora = LoRARequest(ADAPTER, ADAPTER_ID, lora_path=ADAPTER) if self._adapted else None
        pending: dict[str, int] = {}
        for i, prompt in enumerate(prompts):
            settings = request_settings(params, n, seeds[i], end_ids)
            if "structured_outputs" in settings:
                settings["structured_outputs"] = StructuredOutputsParams(**settings["structured_outputs"])
            sampling = VLLMParams(**settings, flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY)
            self._requests += 1
            request = str(self._requests)
            pending[request] = i
            self._engine.add_request(request, {"prompt_token_ids": list(prompt)}, sampling, lora_request=lora)
        return pending

    # ---- memory and shutdown ----

    def sleep(self) -> None:
        """Free the GPU's memory for the trainer. On a CPU nothing can be freed."""
        if self._engine is None or len(self._asleep) == 2 or self.sleep_level == 0 or self._device.type == "cpu":
            return
        self.wake()  # only the weights may be awake, if no prompt was left to sample; vLLM sleeps from fully awake only
        with isolated_call(self._device):
            self._engine.sleep(level=self.sleep_level)
        self._asleep = {"weights", "kv_cache"}
        if self.sleep_level == 2:
            self._loaded, self._base = False, ""

    def wake(self) -> None:
        """Allocate the freed memory again: the weights, unless ``load_weights`` has done so, then the KV cache."""
        if self._asleep:
            torch.cuda.empty_cache()  # vLLM needs the memory of the trainer's cached blocks
            with isolated_call(self._device):
                self._wake("weights")
                self._wake("kv_cache")

    def _wake(self, kind: str) -> None:
        if kind in self._asleep:
            self._engine.wake_up([kind])
            self._asleep.remove(kind)

    def close(self) -> None:
        """Shut vLLM down and free all its memory; a later ``load_weights`` builds it again."""
        if self._engine is None:
            return
        atexit.unregister(self.close)
        engine, self._engine = self._engine, None
        self._policy, self._loaded, self._asleep = None, False, set()
        self._base, self._max_rank, self._adapted = "", 0, False
        process_groups.shutdown(engine)
        del engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _sampled_logprobs(logprobs: Any) -> list[float]:
    """Return the log-prob of each sampled token, the first entry of each position in vLLM's flat list."""
    return [logprobs.logprobs[start] for start in cast(Mapping[int, int], logprobs.start_indices)]
