"""The contract of a generator, held by every kind: in this process, in a process of its own, and as Ray actors.

One generator of each kind goes through all tests, in FP64, so that its log-probabilities can be held to a plain forward
pass of `transformers`; each test asks for numbers of its own. The last one breaks it. Those that decode with vLLM,
where it is installed, do so in FP32, with a policy of random weights whose heads are as wide as its CPU kernels ask.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from scalerl.completions import Completion, Counts, GenerationError, Request
from scalerl.config import load_config
from scalerl.forward import Forward
from scalerl.generate import Generator
from scalerl.policy import load_policy, new_policy
from scalerl.sampler import interruption, make_generator, own_generator
from scalerl.tasks import get_task

PROMPTS = ("7+3*4-2=", "1+1=", "9*9*9=", "2-5+8=", "0-5-4-5+5*0+6=")
SLOTS, COUNT = 16, 8


class Made:
    """A generator of one kind, the policy that it samples from, and how many updates that has seen."""

    def __init__(self, kind: str, engine: str = "own") -> None:
        fields = {
            "generator": kind, "generators": 2 if kind == "ray" else 1, "slots": SLOTS, "engine": engine,
            "dtype": "float64" if engine == "own" else "float32", "interruption_tokens": 12, "thinking_tokens": 14,
        }  # fmt: skip
        self.kind, self.engine = kind, engine
        self.config = load_config(["scalerl", "demo"], [f"{key}={value}" for key, value in fields.items()])
        if engine == "own":
            self.policy = load_policy(self.config.model_name, dtype="float64")
        else:
            self.policy = new_policy(get_task("chain").characters, max_length=72, width=64, heads=2, seed=1)
            self.policy.model.to("cuda" if torch.cuda.is_available() else "cpu")  # as the build of vLLM asks
        self.forward = Forward(self.policy.model, self.config.max_length, getattr(torch, self.config.dtype))
        self.version = self.asked = 0
        about = (self.config, self.policy, self.forward, self.forward.weights())
        if kind == "inline":
            task = get_task("chain")
            self.generation = make_generator(about[0], about[1], task, *about[2:], slots=SLOTS, seed=self.config.seed)
        elif kind == "process":
            from scalerl.worker import GeneratorProcess

            self.generation = GeneratorProcess(*about, slots=SLOTS)
        else:
            from scalerl.raygenerators import RayGenerators

            self.generation = RayGenerators(*about, slots=SLOTS)

    def another(self, slots: int) -> Generator:
        """The package's own generator, in this process, with the weights that there are now."""
        about = (self.config, self.policy, get_task("chain"), self.forward, self.forward.weights())
        return own_generator(*about, slots=slots, seed=self.config.seed)

    def load(self) -> None:
        """Change the policy as an update would, and hand it over."""
        self.version += 1
        with torch.no_grad():
            for weight in self.policy.model.parameters():
                weight.mul_(1.03 if self.version % 2 else 1 / 1.03)
        self.generation.load(self.version, self.forward.weights())

    def requests(self, groups: int) -> list[Request]:
        """Ask for numbers that nobody asked for before."""
        first, self.asked = self.asked, self.asked + groups * COUNT
        ids = [self.policy.encode(PROMPTS[group % len(PROMPTS)]) for group in range(groups)]
        return [Request(first + COUNT * group, COUNT, prompt) for group, prompt in enumerate(ids)]

    def pids(self) -> list[int]:
        """The processes that it holds."""
        if self.kind == "inline":
            return []
        return [self.generation.pid] if self.kind == "process" else self.generation.pids


KINDS = ("inline", "process", "ray", "inline vllm", "process vllm", "ray vllm")
PARAMS = [pytest.param(kind, marks=pytest.mark.slow) if {"ray", "vllm"} & set(kind.split()) else kind for kind in KINDS]


@pytest.fixture(scope="module", params=PARAMS)
def made(request):
    for package in ("ray", "vllm"):  # not imported here: they read their environment when they are
        if package in request.param and find_spec(package) is None:
            pytest.skip(f"needs {package}")
    made = Made(*request.param.split())
    yield made
    made.generation.close()


class Streamed(NamedTuple):
    """What a generator did with requests in slots too few, while new weights came all the time."""

    requests: list[Request]
    came: list[Completion]
    counts: Counts


@pytest.fixture(scope="module")
def streamed(made) -> Streamed:
    requests = made.requests(12)[::-1]  # numbers do not rise, so that their order is not that of the requests
    made.generation.submit(requests)
    came: list[Completion] = []
    polls, end = 0, time.monotonic() + 120
    while len(came) < 12 * COUNT and time.monotonic() < end:
        came += made.generation.poll(ticks=1)
        polls += 1
        if polls % 4 == 0:
            made.load()
    return Streamed(requests, came + made.generation.poll(), made.generation.take_counts())


def numbers_of(requests: list[Request]) -> list[int]:
    return [number for request in requests for number in range(request.first, request.first + request.count)]


def test_every_completion_that_was_asked_for_comes_once_and_no_other(streamed):
    asked = {n: request.prompt for request in streamed.requests for n in numbers_of([request])}
    assert sorted(c.number for c in streamed.came) == sorted(asked)
    assert all(c.prompt == asked[c.number] for c in streamed.came)
    assert all(len(c.tokens) == len(c.logprobs) == len(c.versions) > 0 for c in streamed.came)


def test_new_weights_enter_between_two_tokens_and_versions_never_go_back(made, streamed):
    assert all(list(c.versions) == sorted(c.versions) for c in streamed.came)
    assert {v for c in streamed.came for v in c.versions} <= set(range(made.version + 1))
    assert sum(len(set(c.versions)) > 1 for c in streamed.came) > 5


def longest_fall(values: list[int]) -> int:
    """Length of the longest strictly falling subsequence: so many rising sequences, and no fewer, make up the whole."""
    longest: list[int] = []
    for i, value in enumerate(values):
        longest.append(1 + max((longest[j] for j in range(i) if values[j] > value), default=0))
    return max(longest)


def test_each_generator_starts_what_it_is_given_in_the_order_of_the_requests(made, streamed):
    began = {c.number: c.versions[0] for c in streamed.came}
    in_order = [began[number] for number in numbers_of(streamed.requests)]
    assert len(set(in_order)) > 3 and longest_fall(in_order) <= made.config.generators


def test_what_was_computed_is_counted(streamed):
    sampled = sum(len(c.tokens) for c in streamed.came)
    assert streamed.counts.sampled == sampled and streamed.counts.decoded == sampled - len(streamed.came)
    once = sum(len(request.prompt) for request in streamed.requests)  # a group that finds no room begins in parts
    assert once <= streamed.counts.prefilled <= once * COUNT


def test_thinking_that_goes_on_too_long_is_ended_by_the_phrase(made, streamed):
    how = interruption(made.config, made.policy, get_task("chain"))
    ended = [c for c in streamed.came if c.forced != (0, 0)]
    assert len(ended) > 5
    for c in ended:
        first, end = c.forced
        assert c.tokens[first:end] == how.phrase[: end - first]
        assert how.low <= first + len(how.phrase) <= how.high
        assert len(c.tokens) <= first + len(how.phrase) + how.answer_tokens and not how.over(c.tokens[:first])


def test_log_probabilities_are_those_of_a_plain_forward_pass_of_the_weights_loaded_last(made):
    made.load()
    requests = made.requests(4)
    made.generation.submit(requests)
    came = made.generation.poll()
    assert [c.number for c in came] == numbers_of(requests)
    assert {v for c in came for v in c.versions} == {made.version}
    for c in came:
        ids = torch.tensor([c.prompt + c.tokens], device=made.forward.device)
        with torch.no_grad():
            scores = made.policy.model(input_ids=ids).logits[0, len(c.prompt) - 1 : -1].log_softmax(-1).cpu()
        plain = scores[torch.arange(len(c.tokens)), torch.tensor(c.tokens)]
        assert (plain - torch.tensor(c.logprobs, dtype=torch.float64)).abs().max() < 1e-5


def test_what_is_drawn_depends_on_numbers_and_weights_alone(made):
    requests, other = made.requests(4), made.another(slots=5)
    for generation in (made.generation, other):
        generation.submit(requests)
    assert [c.tokens for c in made.generation.poll()] == [c.tokens for c in other.poll()]


def test_nothing_is_generated_between_two_polls_or_while_it_stands_still(made):
    generation, requests = made.generation, made.requests(4)
    came: list[Completion] = []
    generation.submit(requests)
    if made.kind != "inline":
        generation.pause()
        generation.pause()  # once is enough
    while got := [] if made.kind == "inline" else generation.poll(ticks=1):
        came += got  # what it had finished before it stood still
    generation.take_counts()
    time.sleep(0.2)
    assert generation.take_counts() == Counts()
    if made.kind != "inline":
        assert generation.poll(ticks=1) == [] and generation.take_counts() == Counts()
        generation.go_on()
    came += generation.poll()
    assert sorted(c.number for c in came) == numbers_of(requests)


def test_it_can_be_restored_from_its_state_or_has_none(made):
    state = made.generation.state(cache=True)
    if state is not None:
        made.another(SLOTS).restore(state)
    else:
        with pytest.raises(ValueError, match="keeps no state"):
            made.generation.restore({})
    made.generation.refresh()  # nothing is in work


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_failure_is_told_and_told_again_and_closing_frees_all(made):
    made.load()  # they start with the first load or request
    generation, held = made.generation, made.pids()
    assert all(alive(pid) for pid in held) and len(held) == (0 if made.kind == "inline" else made.config.generators)
    if held:
        generation.submit([Request(made.asked, 1, (10**6,))])  # no such token
        with pytest.raises(GenerationError, match="IndexError: index out of range") as failure:
            generation.poll()
        assert "Traceback" in failure.value.__notes__[0]
        generation.pause()  # never fails
        for call in (generation.poll, lambda: generation.submit(made.requests(1))):
            with pytest.raises(GenerationError, match="index out of range"):
                call()
    generation.close()
    generation.close()
    end = time.monotonic() + 30
    while any(alive(pid) for pid in held) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in held)
