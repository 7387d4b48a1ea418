"""Chat on a model in this process: structured replies, thinking budgets, batches, self-judging, cancellation."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import torch

from lit_tpgrpo.chat.base import ChatClient, ChatError, ChatReply, ChatRequest, Fault, PolicyChat
from lit_tpgrpo.chat.local_chat import LoadedModel, LocalChat
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative import verdicts
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.records import StopReason
from tests.test_export import other_model

FORMS = (
    verdicts.SegmentationVerdict,
    verdicts.ReflectionsVerdict,
    verdicts.SourcesVerdict,
    verdicts.JudgementsVerdict,
    verdicts.MatchingVerdict,
    verdicts.StepVerdict,
)


def ask(chat: LocalChat, *requests: ChatRequest) -> list[ChatReply]:
    async def main() -> list[ChatReply]:
        async with chat.session():
            return await asyncio.gather(*(chat.complete(r) for r in requests))

    return asyncio.run(main())


def request_for(form: type[verdicts.VerdictModel], **options) -> ChatRequest:
    return ChatRequest("text ", "question", schema=form.model_json_schema(), **({"max_tokens": 300} | options))


class CountingEngine(HFEngine):
    """Notes the sizes of the batches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def sample(self, prompts, n, params, seeds):
        self.batches.append(len(prompts))
        return super().sample(prompts, n, params, seeds)


def test_it_is_a_chat_engine(random_model):
    chat = LocalChat(random_model)
    assert isinstance(chat, ChatClient)
    assert isinstance(chat, PolicyChat)


@pytest.mark.parametrize("form", FORMS)
def test_a_random_model_writes_valid_verdicts(random_model, form):
    """Unless the token limit ends them, which a schema cannot prevent."""
    requests = [request_for(form, temperature=1.0, seed=i) for i in range(20)]
    replies = ask(LocalChat(random_model), *requests)
    whole = [r for r in replies if not r.cut]
    assert len(whole) >= 10
    for reply in whole:
        form.model_validate_json(reply.text)


def test_without_a_schema_the_random_model_writes_none(random_model):
    (reply,) = ask(LocalChat(random_model), ChatRequest("text ", "question", max_tokens=20))
    assert reply.cut
    assert reply.completion_tokens == 20
    with pytest.raises(ValueError, match="JSON"):
        verdicts.StepVerdict.model_validate_json(reply.text)


def test_requests_that_wait_together_are_sampled_together_by_their_settings(random_model):
    engine = CountingEngine()
    step, matching = request_for(verdicts.StepVerdict), request_for(verdicts.MatchingVerdict)
    ask(LocalChat(random_model, engine), step, step, matching, step, matching)
    assert engine.batches == [3, 2]


def test_greedy_replies_do_not_depend_on_the_batch(random_model):
    chat = LocalChat(random_model)
    requests = [ChatRequest(f"text {i} " * i, "question", max_tokens=12) for i in range(1, 5)]
    raise_if_any_failed = [r.text for r in ask(chat, *requests)]
    assert [ask(chat, r)[0].text for r in requests] == raise_if_any_failed


def test_thinking_is_free_limited_and_not_part_of_the_reply(random_model):
    request = request_for(verdicts.StepVerdict, thinking_tokens=15, temperature=1.0)
    (reply,) = ask(LocalChat(random_model), request)
    assert 5 < reply.prompt_tokens < 25
    verdicts.StepVerdict.model_validate_json(reply.text)
    assert reply.thinking_tokens == 15
    assert reply.thinking
    assert reply.completion_tokens > 15
    assert "</think>" not in reply.text


def test_thinking_ends_at_its_tag(random_model):
    """A model that has been made to write the closing tag as its third token."""
    chat = LocalChat(random_model)
    chat._ready()
    tokenizer = load_tokenizer(random_model)
    tag = tokenizer.convert_tokens_to_ids("</think>")

    class Closing(HFEngine):
        def _generate(self, prompts, params, seed):
            made = super()._generate(prompts, params, seed)
            if tag not in params.stop_ids:
                return made
            ids = (*made[0].token_ids[:2], tag)
            return [type(m)(ids, m.logprobs[:3], StopReason.EOS) for m in made]

    closing = LocalChat(random_model, Closing())
    (reply,) = ask(closing, request_for(verdicts.StepVerdict, thinking_tokens=50))
    assert reply.thinking_tokens == 3
    verdicts.StepVerdict.model_validate_json(reply.text)


def test_stop_ids_end_a_completion(random_model):
    model, tokenizer = load_causal_lm(random_model, False, None, "sdpa"), load_tokenizer(random_model)
    engine = HFEngine()
    engine.load_weights(LoadedModel(model, tokenizer))
    params = SamplingParams(max_new_tokens=40)
    ((_, (free,)),) = engine.sample([[5, 6]], 1, params, [0])
    ids = free.token_ids.tolist()
    stop = ids[7]
    ((_, (stopped,)),) = engine.sample([[5, 6]], 1, SamplingParams(max_new_tokens=40, stop_ids=(stop,)), [0])
    assert stopped.token_ids.tolist() == ids[: ids.index(stop) + 1]
    assert stopped.stop is StopReason.EOS


def test_a_prompt_without_room_is_refused(random_model):
    with pytest.raises(ChatError, match=r"more than the (512|4096) positions") as caught:
        ask(LocalChat(random_model), ChatRequest("word " * 5000, "?", max_tokens=10))
    assert caught.value.fault is Fault.REFUSED


def test_a_schema_that_cannot_be_enforced_is_named(random_model):
    impossible = ChatRequest("a", "b", schema={"type": "nonsense"}, max_tokens=5)
    with pytest.raises(ConfigError, match="schema cannot be enforced"):
        ask(LocalChat(random_model), impossible)


class Policy:
    """What the trainer's module shows of itself."""

    def __init__(self, folder: str) -> None:
        self.policy_model = load_causal_lm(folder, False, None, "sdpa")
        self.tokenizer = load_tokenizer(folder)
        self.policy_version = 0

    def named_tensors(self):
        return self.policy_model.named_parameters()


def test_the_policy_judges_itself_with_the_weights_of_its_last_refresh(random_model):
    policy, chat = Policy(random_model), LocalChat("policy")
    with pytest.raises(ConfigError, match="JudgeRefresh"):
        _ = chat.identity
    assert chat.needs_policy
    assert chat.refresh(policy)
    assert not chat.needs_policy
    question = ChatRequest("text ", "question", max_tokens=12)
    before, identity = ask(chat, question)[0].text, chat.identity
    with torch.no_grad():
        for parameter in policy.policy_model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert ask(chat, question)[0].text == before  # frozen until it is refreshed
    assert chat.identity == identity
    assert chat.refresh(policy)
    assert chat.identity != identity
    assert ask(chat, question)[0].text != before
    assert not chat.refresh(policy)  # nothing has changed since


def test_the_policy_judges_itself_with_its_buffers_too(random_model):
    """Those that files hold beside the weights are not at what an architecture begins with."""
    policy, chat = Policy(random_model), LocalChat("policy")
    module = TPGRPOModule(other_model("gemma4_text", len(policy.tokenizer)), tokenizer=policy.tokenizer)
    module.configure_model()
    assert chat.refresh(module)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        judge, own = (model.eval()(ids).logits for model in (chat._ready().policy_model, module.policy_model))
    assert torch.equal(judge, own)


def test_a_frozen_judge_takes_nothing_over(random_model):
    chat = LocalChat(random_model)
    identity = chat.identity
    assert not chat.refresh(Policy(random_model))
    assert not chat.needs_policy
    assert chat.identity == identity


def test_cancelled_requests_leave_nothing_behind(random_model):
    async def main() -> None:
        chat = LocalChat(random_model)
        async with chat.session():
            tasks = [asyncio.ensure_future(chat.complete(ChatRequest("a", "b", max_tokens=50))) for _ in range(4)]
            await asyncio.sleep(0)  # they are in the queue now
            for task in tasks[:3]:
                task.cancel()
            reply = await tasks[3]
            assert reply.completion_tokens == 50
        assert len(asyncio.all_tasks()) == 1

    before = set(threading.enumerate())
    asyncio.run(main())
    assert set(threading.enumerate()) <= before


def test_an_error_of_the_engine_reaches_every_request_of_its_batch(random_model):
    class Broken(HFEngine):
        def _generate(self, prompts, params, seed):
            raise MemoryError("out of memory")

    chat = LocalChat(random_model, Broken())

    async def main() -> list[BaseException | ChatReply]:
        async with chat.session():
            return await asyncio.gather(
                *(chat.complete(ChatRequest("a", "b")) for _ in range(2)), return_exceptions=True
            )

    assert [type(e) for e in asyncio.run(main())] == [MemoryError, MemoryError]


def test_a_panic_in_a_library_does_not_leave_callers_waiting(random_model):
    class Panic(BaseException):
        pass

    class Broken(HFEngine):
        def _generate(self, prompts, params, seed):
            raise Panic("index out of bounds")

    with pytest.raises(Panic):
        ask(LocalChat(random_model, Broken()), ChatRequest("a", "b"))


def test_the_copy_of_the_policy_leaves_the_policys_configuration_alone(random_model):
    policy = Policy(random_model)
    policy.policy_model.set_attn_implementation("eager")
    LocalChat("policy", dtype="bfloat16", attention="sdpa").refresh(policy)
    assert policy.policy_model.config._attn_implementation == "eager"
    assert policy.policy_model.config.dtype in (None, torch.float32)


def test_outside_of_a_session_nothing_is_asked(random_model):
    with pytest.raises(RuntimeError, match="outside of a session"):
        asyncio.run(LocalChat(random_model).complete(ChatRequest("a", "b")))


def test_json_schemas_travel_as_text(random_model):
    schema = json.dumps(verdicts.StepVerdict.model_json_schema())
    model, tokenizer = load_causal_lm(random_model, False, None, "sdpa"), load_tokenizer(random_model)
    engine = HFEngine()
    engine.load_weights(LoadedModel(model, tokenizer))
    for _, completions in engine.sample(
        [[5], [6, 7]], 2, SamplingParams(max_new_tokens=60, json_schema=schema), [1, 2]
    ):
        for completion in completions:
            verdicts.StepVerdict.model_validate_json(tokenizer.decode(completion.token_ids, skip_special_tokens=True))
