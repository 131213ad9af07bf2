"""How a prompt reaches the policy: as it stands, or as the turn of a chat; and what ends a completion."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest
import transformers.utils.hub
from huggingface_hub.errors import OfflineModeIsEnabled
from tokenizers import AddedToken
from transformers import AutoTokenizer

from scalerl.checkdata import check_data
from scalerl.cli import main
from scalerl.data import encode_prompts, load_data
from scalerl.demonstrations import _encoded
from scalerl.generate import Generator
from scalerl.modelcard import FACTS_FILE, count_evaluations, facts, write_card
from scalerl.policy import Policy, checkpoint_hash, load_policy, local_folder, new_policy
from scalerl.runlog import BEST_FOLDER, UserError, read_header, read_log
from scalerl.start import resume, train
from scalerl.tasks import completion_of

SHIPPED = Path(__file__).parents[1] / "data"
TEMPLATE = (
    "{% for message in messages %}{{ message.role[0] + '#' + message.content + '*' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '=' }}{% endif %}"
)


@pytest.fixture
def model(tmp_path):
    """Make a directory whose tokenizer has these attributes, and whose generation config has these ends."""

    def make(template: str | None = TEMPLATE, ends: list[int] | None = None, **attributes) -> str:
        policy = new_policy("0123456789+-*=#us", max_length=72, width=32, heads=2, seed=1)
        policy.tokenizer.chat_template = template
        for name, value in attributes.items():
            setattr(policy.tokenizer, name, value)
        if ends is not None:
            policy.model.generation_config.eos_token_id = ends
        policy.save(tmp_path / "model")
        return str(tmp_path / "model")

    return make


@pytest.mark.parametrize(
    ("prompt_format", "system", "rendered"),
    [
        ("auto", None, "u#1+2=*="),
        ("chat", None, "u#1+2=*="),
        ("auto", "9", "s#9*u#1+2=*="),
        ("plain", None, "1+2="),
    ],
)
def test_a_prompt_is_rendered_by_the_template_unless_it_is_plain(model, prompt_format, system, rendered):
    policy = load_policy(model(), prompt_format=prompt_format, system_prompt=system)
    assert policy.render("1+2=") == rendered
    assert policy.encode_prompt("1+2=") == policy.encode(rendered)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("1+1=", "prompt_format: .* leaves out or changes text of the user"),
        ("assistant: {{ messages[0].role }}", "prompt_format: .* leaves out or changes text of the user"),
        ("{{ messages[-1].content[:30] }}", "prompt_format: .* leaves out or changes text of the user"),
        ("{{ messages[-1].content }}", "system_prompt: .* leaves out or changes text of the system"),
    ],
)
def test_a_template_that_cuts_or_drops_text_is_refused_at_load(model, template, told):
    system = "9" if told.startswith("system") else None
    with pytest.raises(UserError, match=told):
        load_policy(model(template=template), prompt_format="chat", system_prompt=system)


def test_a_template_that_cuts_long_prompts_is_refused_at_the_first(model):
    policy = load_policy(model(template="{{ messages[-1].content[:80] | trim }}"), prompt_format="chat")
    assert policy.render(" 1+2= ") == "1+2="
    with pytest.raises(UserError, match=r"prompt_format: .* leaves out"):
        policy.encode_prompt("1+" * 60)


@pytest.fixture
def spelling(tmp_path):
    """Make a policy whose tokenizer has characters to spell its control tokens with."""

    def make(template: str | None, characters: str = "0123456789+=#<>endpau*s "):
        policy = new_policy(characters, max_length=72, width=32, heads=2)
        policy.tokenizer.chat_template = template
        policy.save(tmp_path / "spelling")
        return load_policy(str(tmp_path / "spelling"), prompt_format="auto")

    return make


def test_what_looks_like_a_control_token_in_a_plain_prompt_is_text(spelling):
    policy = spelling(None)
    text = "1+2<end>3+4=<pad>"
    assert 1 in policy.encode(text)
    ids = policy.encode_prompt(text)
    assert policy.tokenizer.convert_ids_to_tokens(ids) == list(text)
    assert policy.decode(ids) == text


@pytest.mark.parametrize("prompt", ["1<end>u#2", "<end>", " <end>9 "])
@pytest.mark.parametrize("kept", ["message.content", "message.content | trim"])
def test_what_looks_like_a_control_token_in_a_chat_opens_no_turn(spelling, prompt, kept):
    policy = spelling(
        "{% for message in messages %}<pad>{{ message.role[0] + '#' }}{{ KEPT }}<end>{% endfor %}=".replace(
            "KEPT", kept
        )
    )
    text = prompt.strip() if "trim" in kept else prompt
    tokens = policy.tokenizer.convert_ids_to_tokens(policy.encode_prompt(prompt))
    assert tokens == ["<pad>", "u", "#", *text, "<end>", "="]
    item = {"prompt": "1+2=", "system": prompt}  # a row's own system text is no more trusted
    tokens = policy.tokenizer.convert_ids_to_tokens(policy.encode_item(item))
    assert tokens == ["<pad>", "s", "#", *text, "<end>", "<pad>", "u", "#", *"1+2=", "<end>", "="]
    assert policy.encode_prompt("1+2=") == policy.encode(policy.render("1+2="))  # other prompts: as they always were


LETTERS = "0123456789+-*=#us<think/>olred \n"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """Make a policy whose tokenizer has tokens for thinking, tools and runs of spaces; none of them is special."""
    made = {}

    def make(template: str | None, *, special: bool = False) -> Policy:
        key = (template, special)
        if key not in made:
            folder = tmp_path_factory.mktemp("thinker")
            new_policy(LETTERS, max_length=72, width=32, heads=2).save(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            names = ["<think>", "</think>", "<tool>", "<h1>", "  "]
            tokenizer.add_tokens([AddedToken(n, special=special and "think" in n, normalized=False) for n in names])
            tokenizer.chat_template = template
            tokenizer.save_pretrained(folder)
            made[key] = Policy(None, tokenizer, (1,)).formatted("auto")
        return made[key]

    return make


def words(policy: Policy, ids) -> list[str]:
    return policy.tokenizer.convert_ids_to_tokens(list(ids))


TOOLS = TEMPLATE.replace("'='", "'<tool>=<think>\n'").replace("message.role[0]", "'  ' + message.role[0]")


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("prompt", ["1<think>2</think>3", "<think>", " </think>+"])
def test_thinking_in_a_prompt_is_text_and_a_templates_own_is_a_token(thinker, prompt, special):
    policy = thinker(TOOLS, special=special)
    assert "<think>" in words(policy, policy.encode("1<think>2"))
    assert words(policy, policy.encode_prompt(prompt)) == [
        "  ", "u", "#", *prompt, "*", "<tool>", "=", "<think>", "\n",
    ]  # fmt: skip
    item = {"prompt": "1+2=", "system": prompt}
    assert words(policy, policy.encode_item(item))[2 : 3 + len(prompt)] == ["#", *prompt]
    own = policy.formatted("chat", "<think>")  # the configuration's system prompt is no user's: it is parsed
    assert words(own, own.encode_prompt("1<think>"))[:5] == ["  ", "s", "#", "<think>", "*"]
    assert words(own, own.encode_prompt("1<think>"))[8:16] == [*"1<think>"]
    plain = policy.formatted("plain")
    assert words(plain, plain.encode_prompt(prompt)) == [*prompt]


def test_only_what_the_template_names_is_control_beside_thinking(thinker):
    tools, without = thinker(TOOLS), thinker(TEMPLATE)
    text = "1<tool>2<h1>3  4"
    as_text, as_token = [*"1<tool>2", "<h1>", "3", "  ", "4"], ["1", "<tool>", "2", "<h1>", "3", "  ", "4"]
    for policy, expected in ((tools, as_text), (without, as_token)):
        assert words(policy, policy.formatted("plain").encode_prompt(text)) == expected
    calm = "1+2  3<h1>"  # nothing in it steers: as it always was, in one piece with the template
    assert tools.encode_prompt(calm) == tools.encode(tools.render(calm))
    own = thinker(TEMPLATE)._replace(tokenizer=copy.copy(without.tokenizer))
    own.tokenizer.chat_control_tokens = ["<h1>"]  # where the author lists them
    assert words(own, own.formatted("plain").encode_prompt("<h1>")) == [*"<h1>"]


@pytest.mark.parametrize("special", [False, True])
def test_thinking_in_a_completion_is_tokens_and_an_end_is_text(thinker, special):
    policy = thinker(TOOLS, special=special)
    item = {"prompt": "1<think>", "answer": "2", "thinking": "<think>1", "solution": "2<tool>"}
    rows = _encoded("train.json", policy, [(item, completion_of(item, "</think>"))], "</think>")
    assert words(policy, rows[0][0])[3:12] == [*"1<think>", "*"]
    assert words(policy, rows[0][1]) == ["<think>", "1", "</think>", "2", "<tool>", "<end>"]
    assert words(policy, policy.encode_text("1<end>2<think>")) == [*"1<end>2", "<think>"]


def test_train_evaluation_and_check_data_give_the_policy_the_same_text(thinker, quick, tmp_path):
    policy = thinker(TOOLS)
    (tmp_path / "d.json").write_text(json.dumps([{"prompt": "1<think>2", "answer": "3"}]))
    data = load_data(tmp_path / "d.json")
    kept, prompts = encode_prompts(data, policy.encode_item, prompt_tokens=40, unknown_id=policy.unknown_id)
    assert words(policy, prompts[0])[3:12] == [*"1<think>2"]
    found = check_data(str(tmp_path / "d.json"), quick(reward="exact"), policy)
    assert found.rendered[0]["tokens"] == len(prompts[0]) and kept.dropped == 0


def test_a_control_token_that_cannot_be_spelt_out_is_refused_or_unread(model, spelling):
    assert load_policy(model(template=None)).unknown_id in load_policy(model(template=None)).encode_prompt("1<end>2=")
    policy = spelling(None)
    stubborn = policy._replace(tokenizer=_Stubborn(policy.tokenizer))
    with pytest.raises(UserError, match=r"'1<end>2' holds the control token <end>, which this tokenizer cannot spell"):
        stubborn.encode_prompt("1<end>2")


class _Stubborn:
    """A tokenizer that parses control tokens whatever it is asked."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    backend_tokenizer = None

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text, **_):
        return self._tokenizer(text, add_special_tokens=False)


def test_without_a_template_auto_is_plain_and_chat_is_refused(model):
    name = model(template=None)
    assert load_policy(name, prompt_format="auto").render("1+2=") == "1+2="
    with pytest.raises(UserError, match=r"prompt_format: the tokenizer of .* has no chat template; set prompt_format"):
        load_policy(name, prompt_format="chat")
    with pytest.raises(UserError, match=r"system_prompt: the tokenizer of .* has no chat template"):
        load_policy(name, prompt_format="auto", system_prompt="9")


def test_a_template_that_cannot_be_used_is_told_in_a_line(model):
    name = model(template="{% for m in messages %}{{ raise_exception('no system here') }}{% endfor %}")
    with pytest.raises(UserError, match=r"prompt_format: the chat template .* cannot be used: no system here"):
        load_policy(name, prompt_format="chat")
    assert load_policy(name, prompt_format="plain").render("1") == "1"


def test_plain_prompts_begin_as_the_tokenizer_begins_a_text(model):
    from tokenizers.processors import TemplateProcessing

    name = model(template=None, bos_token="<pad>")  # noqa: S106
    policy = load_policy(name)
    assert policy.encode_prompt("1+") == policy.encode("1+")
    policy.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <end>", special_tokens=[("<pad>", 0), ("<end>", 1)]
    )
    assert policy.tokenizer("1+")["input_ids"] == [0, *policy.encode("1+"), 1]
    assert policy.encode_prompt("1+") == (0, *policy.encode("1+"))


def test_ends_are_those_of_the_generation_config_and_of_the_tokenizer(model):
    policy = load_policy(model(ends=[5, 7]))
    assert policy.end_ids == (5, 7, 1)
    assert policy.decode([3, 7]) == policy.decode([3]) and policy.decode([3, 5, 4])[1:] != ""


@pytest.mark.parametrize(("attributes", "unknown"), [({}, 2), ({"unk_token": "<end>"}, None)])
def test_an_unknown_token_with_another_use_is_not_taken_for_text_that_is_not_known(model, attributes, unknown):
    assert load_policy(model(**attributes)).unknown_id == unknown


def test_train_and_evaluation_see_the_rendered_prompt_and_the_header_keeps_it(model, quick, prompts, tmp_path):
    files = [str(prompts / "train.json"), str(prompts / "eval.json")]
    config = quick(model_name=model(), system_prompt="'7'", prompt_tokens=40, max_length=96, max_steps=1, batch_size=16)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        import scalerl.generate

        real = scalerl.generate.Generator.submit
        patch.setattr(
            scalerl.generate.Generator, "submit", lambda self, asked: (seen.extend(asked), real(self, asked))[1]
        )
        folder = train(config, *files, str(tmp_path / "run"))
    policy = load_policy(config.model_name, prompt_format="auto", system_prompt="7")
    texts = {policy.tokenizer.decode(request.prompt) for request in seen}
    assert texts and all(text.startswith("s#7*u#") and text.endswith("=*=") for text in texts)
    given = {policy.render(item["prompt"]) for file in files for item in json.loads(Path(file).read_text())}
    assert texts <= given and len({request.prompt for request in seen}) > 8
    header = read_header(folder)
    first = json.loads((prompts / "train.json").read_text())[0]["prompt"]
    sha256 = _sha256(policy, *files)
    assert header["prompt"] == {"format": "chat", "example": policy.render(first), "sha256": sha256, "clock": None}
    assert header["not_reproducible"] == []


def _sha256(policy, *files) -> str:
    items = [json.loads(Path(file).read_text()) for file in files]
    given = [[json.dumps(policy.encode(policy.render(item["prompt"]))) for item in some] for some in items]
    return hashlib.sha256("".join("prompts" + "".join(some) for some in given).encode()).hexdigest()


CLOCK = "{{ strftime_now('%f') }}" + TEMPLATE  # microseconds: no two are alike


def test_a_template_that_reads_the_clock_is_told_the_time_of_the_first_start(model, quick, prompts, tmp_path):
    files = [str(prompts / "train.json"), str(prompts / "eval.json")]
    fields = {"prompt_tokens": 40, "max_length": 96, "max_steps": 2, "eval_every": 1, "batch_size": 16}
    config = quick(model_name=model(template=CLOCK), checkpoint_every=1, **fields)
    folder = train(config, *files, str(tmp_path / "run"))
    header, logged = read_header(folder), (folder / "log.jsonl").read_text()
    assert header["not_reproducible"] == ["prompt_format"]
    assert header["prompt"]["example"].startswith(header["prompt"]["clock"][-6:])
    resume(str(folder), ["max_steps=3"], say=pytest.fail)
    assert (folder / "log.jsonl").read_text()[:200] == logged[:200]
    correct = {row["step"]: row["correct"] for row in read_log(folder / "log.jsonl").rows if row["kind"] == "eval"}
    argv = ["evaluate", "--model-path", str(folder / "checkpoints" / "step-00000003"), "--eval-data", files[1]]
    assert main([*argv, "--output-file", str(tmp_path / "r.json"), "--run", str(folder)]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["data"][0]["correct"] == correct[3]


@pytest.mark.parametrize("template", ["{{ 90 | string | list | random }}" * 9 + TEMPLATE, None])
def test_a_run_that_would_be_given_other_prompts_is_not_gone_on_with(model, quick, prompts, tmp_path, template):
    files = [str(prompts / "train.json"), str(prompts / "eval.json")]
    fields = {"prompt_tokens": 60, "max_length": 116, "max_steps": 1, "eval_every": 1, "batch_size": 16}
    asked, submit, encode = [], Generator.submit, Policy.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Generator, "submit", lambda self, asks: (asked.append([a.prompt for a in asks]), submit(self, asks))
        )
        folder = train(quick(model_name=model(template=template), **fields), *files, str(tmp_path / "run"))
    evaluations = [given for given in asked if len(given) == 8]
    assert len(evaluations) == 2 and evaluations[0] == evaluations[1]  # rendered once
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "encode", lambda self, text: encode(self, text.replace("=", "==")))  # another version
        with pytest.raises(
            UserError, match=r"other prompts than before, .* that run\.json names, or train in another"
        ) as e:
            resume(str(folder), ["max_steps=2"], say=pytest.fail)
    assert "\n" not in str(e.value) and before == {path: path.read_bytes() for path in before}
    if template is not None:
        with pytest.raises(UserError, match="would be given other prompts than before"):
            resume(str(folder), ["max_steps=2"], say=pytest.fail)
        header = read_header(folder)  # a run from before there was a hash
        del header["prompt"]["sha256"], header["prompt"]["clock"]
        (folder / "run.json").write_text(json.dumps(header))
    resume(str(folder), ["max_steps=2"], say=pytest.fail)


def test_the_system_text_of_a_row_is_its_prompts_own_and_plain_prompts_have_none(model, quick, prompts, tmp_path):
    files = {}
    for name in ("train", "eval"):
        items = json.loads((prompts / f"{name}.json").read_text())
        items = [{**item, "system": "+-"} if index % 2 == 0 else item for index, item in enumerate(items)]
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(items))
    fields = {"model_name": model(), "prompt_tokens": 40, "max_length": 96, "max_steps": 1, "batch_size": 16}
    seen, real = [], Generator.submit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generator, "submit", lambda self, asked: (seen.extend(asked), real(self, asked))[1])
        folder = train(quick(**fields, system_prompt="'7'"), *map(str, files.values()), str(tmp_path / "run"))
    policy = load_policy(fields["model_name"], prompt_format="auto")
    texts = {policy.tokenizer.decode(request.prompt) for request in seen}
    for item in json.loads(files["eval"].read_text()):
        assert f"s#{item.get('system', '7')}*u#{item['prompt']}*=" in texts
    assert read_header(folder)["prompt"]["example"].startswith("s#+-*u#")
    with pytest.raises(UserError, match=r"train.json: item 0: the prompt '.*' has a `system` text .* prompt_format"):
        train(quick(**fields, prompt_format="plain"), *map(str, files.values()), str(tmp_path / "plain"))
    assert not (tmp_path / "plain").exists()
    files["train"].write_text('[{"prompt": "1+", "answer": "1", "system": 3}]')
    with pytest.raises(UserError, match=r"train.json: item 0: 'system' is no text"):
        load_data(files["train"])


def test_the_hash_of_a_checkpoint_covers_its_chat_template(model):
    name = model()
    before = checkpoint_hash(name)
    files = [*Path(name).glob("*.jinja")]
    assert files, "transformers keeps the template in a file of its own"
    files[0].write_text(TEMPLATE.replace("#", "-"))
    assert checkpoint_hash(name) != before


def test_the_hash_of_a_checkpoint_covers_the_model_and_nothing_else_that_lies_there(model, tmp_path):
    best = tmp_path / BEST_FOLDER
    shutil.copytree(model(), best)
    before = checkpoint_hash(best)
    run = read_header(SHIPPED / "runs" / "scalerl")
    evaluation = next(row for row in read_log(SHIPPED / "runs" / "scalerl" / "log.jsonl").rows if row["kind"] == "eval")
    write_card(best, facts(run, evaluation, highest_of=3))
    count_evaluations(tmp_path, 9)
    assert json.loads((best / FACTS_FILE).read_text())["highest_of"] == 9
    for name in (
        "trainer_state.json",
        "training_args.bin",
        "README.md",
        "eval_results.json",
        "optimizer.safetensors.tmp",
    ):
        (best / name).write_text("{}")
    (best / "tokenizer_files").mkdir()
    assert checkpoint_hash(best) == before
    for name in ("tokenizer.model", "vocab.txt", "merges.txt", "spiece.model", "model.safetensors.index.json"):
        (best / name).write_text("x")
        assert before != (before := checkpoint_hash(best)), name


def test_the_hash_of_the_checkpoint_that_ships_is_that_of_the_runs_that_ship():
    names = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    folder, digest = SHIPPED / "checkpoints" / "chain", hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    assert checkpoint_hash(folder) == digest.hexdigest()
    assert read_header(SHIPPED / "runs" / "scalerl")["checkpoint"]["sha256"] == digest.hexdigest()


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("hostile", "told"),
    [
        (LOOP, "does not end within 0.2 CPU-seconds"),
        ("{{ 9 ** (9 ** 9) }}", "does not end within 0.2 CPU-seconds"),
        ("{% for i in range(10 ** 12) %}{% endfor %}", "Range too big"),
        ("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", "recursion"),
        ("{{ 'x' * 10 ** 15 }}", "MemoryError"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_hostile_template_is_a_line(model, monkeypatch, hostile, told):
    monkeypatch.setattr("scalerl.chat.LIMIT_S", 0.2)
    name = model(template=hostile + TEMPLATE)
    with pytest.raises(
        UserError, match=rf"^prompt_format: the chat template of this tokenizer cannot be used: .*{told}"
    ):
        load_policy(name, prompt_format="chat")
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_hub_name_that_is_nowhere_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(transformers.utils.hub, "is_offline_mode", lambda: True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def offline(*_, **__):
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", offline)
    with pytest.raises(
        UserError, match="model_name: some/where cannot be loaded: it is no directory here, and the hub"
    ):
        load_policy("some/where")
    assert local_folder("some/where") is None and checkpoint_hash("some/where") is None


def test_a_hub_name_that_was_fetched_is_hashed_and_a_run_of_it_goes_on(model, quick, prompts, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--some--where" / "snapshots" / "abc"
    shutil.copytree(model(template=None), snapshot)
    (tmp_path / "hub" / "models--some--where" / "refs").mkdir()
    (tmp_path / "hub" / "models--some--where" / "refs" / "main").write_text("abc")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert local_folder("some/where") == snapshot
    files = [str(prompts / "train.json"), str(prompts / "eval.json")]
    config = quick(model_name="some/where", max_steps=1, batch_size=16)
    folder = train(config, *files, str(tmp_path / "run"))
    assert read_header(folder)["checkpoint"]["sha256"] == checkpoint_hash(snapshot)
    resume(str(folder), ["max_steps=2"], say=pytest.fail)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_at_load(model):
    name = model()
    policy = load_policy(name)
    policy.tokenizer.add_tokens(["x", "y"])
    policy.tokenizer.save_pretrained(name)
    with pytest.raises(UserError, match=r"model_name: .*: its tokenizer numbers 22 tokens and its model knows 20 of"):
        load_policy(name)
