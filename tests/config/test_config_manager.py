from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.config.config_manager import ConfigManager, parse_override
from nectargan.config.loss_options import LossTerm, ScheduleConfig
from nectargan.config.objectives import objective_weights
from nectargan.config.schema import Config
from nectargan.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.json"))
RAMP = {
    "schedule": "linear",
    "start_epoch": 100,
    "end_epoch": 200,
    "initial_value": 100.0,
    "target_value": 0.0,
}


def test_nothing_is_the_defaults() -> None:
    assert ConfigManager().data == ConfigManager({}).data == Config()


def test_json_yaml_and_a_dict_are_the_same(tmp_path: Path) -> None:
    document = {"common": {"seed": 5}, "train": {"loss": {"G_L1": RAMP, "G_GAN": 2}}}
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "a.yaml").write_text(
        "common: {seed: 5}\n"
        "train:\n"
        "  loss:\n"
        "    G_L1: {schedule: linear, start_epoch: 100, end_epoch: 200,\n"
        "           initial_value: 100.0, target_value: 0.0}\n"
        "    G_GAN: 2\n"
    )
    read = [
        ConfigManager(source).data
        for source in (document, tmp_path / "a.json", str(tmp_path / "a.yaml"))
    ]
    assert read[0] == read[1] == read[2]
    assert read[0].common.seed == 5
    l1 = read[0].train.loss["G_L1"]
    assert isinstance(l1, ScheduleConfig)
    assert l1.build().value_at(150) == 50.0


def test_the_given_dict_is_left_alone() -> None:
    document: dict[str, Any] = {"common": {"seed": 5}}
    ConfigManager(document, [("common.seed", 6), ("train.loss.G_L1", 3)])
    assert document == {"common": {"seed": 5}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_projects_configs_load_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager = ConfigManager(path)
    manager.save(tmp_path / "saved.json")
    assert ConfigManager(tmp_path / "saved.json").data == manager.data


def test_the_papers_settings() -> None:
    read = {path.stem: ConfigManager(path).data for path in CONFIGS}
    others = {"resnet", "pix2pixhd", "pixelgan"}
    assert set(read) == {"demo", "facades", "maps", "edges2shoes", "facades_scheduled"} | others
    for name in ("facades", "maps", *others):
        config = read[name]
        assert (config.dataloader.batch_size, config.train.epochs) == (1, 200)
        assert (config.dataloader.load.load_size, config.dataloader.load.crop_size) == (286, 256)
        assert config.dataloader.augmentations.both.h_flip_chance == 0.5
        matching = {"G_FM": 10.0, "G_L1": 0.0} if name == "pix2pixhd" else {"G_L1": 100.0}
        assert config.train.loss == {"G_GAN": 1.0, "D_real": 0.5, "D_fake": 0.5, **matching}
    shoes = read["edges2shoes"]
    assert (shoes.dataloader.batch_size, shoes.train.epochs) == (4, 15)
    assert shoes.dataloader.load.load_size == shoes.dataloader.load.crop_size == 256
    scheduled = read["facades_scheduled"].train
    assert scheduled.objective == "extended"
    moving = {n for n, option in scheduled.loss.items() if isinstance(option, ScheduleConfig)}
    assert moving == scheduled.loss.keys() - {"D_real", "D_fake"}


weights = st.one_of(
    st.floats(-1e6, 1e6),
    st.builds(
        lambda name, a, b, start, length: {
            "schedule": name,
            "initial_value": a,
            "target_value": b,
            "start_epoch": start,
            "end_epoch": start + length,
        },
        st.sampled_from(["linear", "cosine", "exponential", "step", "cyclical", "polynomial"]),
        st.floats(-10, 10),
        st.floats(-10, 10),
        st.integers(1, 99),
        st.integers(1, 99),
    ),
)
terms = st.builds(
    lambda weight, tags: {"function": "torch.nn.L1Loss", "weight": weight, "tags": tags},
    weights,
    st.lists(st.text(max_size=5), max_size=3),
)
losses = st.builds(
    lambda own, new: own | new,
    st.dictionaries(st.sampled_from(list(objective_weights("basic"))), weights | terms),
    st.dictionaries(st.text(min_size=1, max_size=8), terms, max_size=4),
)


@given(
    loss=losses,
    name=st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_.]{0,20}", fullmatch=True),
    size=st.one_of(st.integers(1, 999), st.lists(st.integers(1, 999), min_size=2, max_size=2)),
    chance=st.floats(0, 1),
)
def test_a_saved_config_loads_to_an_equal_one(
    loss: dict[str, Any],
    name: str,
    size: Any,
    chance: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    manager = ConfigManager(
        {
            "common": {"experiment_name": name},
            "dataloader": {
                "load": {"load_size": size},
                "augmentations": {"both": {"v_flip_chance": chance}},
            },
            "train": {"loss": loss},
        }
    )
    path = tmp_path_factory.mktemp("config") / "c.json"
    manager.save(path)
    assert ConfigManager(path).data == manager.data


def test_overrides_later_ones_last() -> None:
    data = ConfigManager(
        {"common": {"seed": 1}},
        [
            ("common.seed", 2),
            ("common.seed", 3),
            ("train.loss.G_L1", RAMP),
            ("train.loss.G_L1.end_epoch", 300),
        ],
    ).data
    assert data.common.seed == 3
    l1 = data.train.loss["G_L1"]
    assert isinstance(l1, ScheduleConfig)
    assert l1.end_epoch == 300


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", ("a.b", 3)),
        ("a=3.5", ("a", 3.5)),
        ("a=true", ("a", True)),
        ("a=text", ("a", "text")),
        ("a=", ("a", "")),
        ('a="3"', ("a", "3")),
        ('a={"x": [1, 2]}', ("a", {"x": [1, 2]})),
        ("a=b=c", ("a", "b=c")),
        ("a=sqlite:///x.db", ("a", "sqlite:///x.db")),
    ],
)
def test_an_override_is_json_where_it_can_be(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["", "a.b", "=3", " =3"])
def test_no_override(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form section\.key=value"):
        parse_override(text)


def test_a_number_may_name_an_experiment() -> None:
    assert ConfigManager(None, [parse_override("common.experiment_name=12")]).data.common == (
        ConfigManager({"common": {"experiment_name": "12"}}).data.common
    )


@pytest.mark.parametrize(
    ("epochs", "phases"), [(10, (5, 5)), (3, (2, 1)), (1, (0, 1)), (7, (4, 3))]
)
def test_set_epochs_keeps_the_proportion(epochs: int, phases: tuple[int, int]) -> None:
    manager = ConfigManager()
    manager.set_epochs(epochs)
    for network in (manager.data.train.generator, manager.data.train.discriminator):
        rate = network.learning_rate
        assert (rate.epochs, rate.epochs_decay) == phases
    assert manager.data.train.epochs == epochs


def test_set_epochs_of_a_constant_rate() -> None:
    manager = ConfigManager({"train": {"generator": {"learning_rate": {"epochs_decay": 0}}}})
    manager.set_epochs(4)
    rate = manager.data.train.generator.learning_rate
    assert (rate.epochs, rate.epochs_decay) == (4, 0)
    with pytest.raises(ConfigError, match="0 epochs"):
        manager.set_epochs(0)


BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"comon": {}}, "comon .* is not a known key. Did you mean 'common'"),
    ({"common": {"sed": 1}}, "common.sed .* Did you mean 'seed'"),
    ({"common": {"batch_size": 3}}, "Did you mean 'dataloader.batch_size'"),
    ({"train": {"generator": {"featurs": 3}}}, "train.generator.featurs .* 'features'"),
    ({"train": {"loss": {"G": {"schedule": "linear", "endepoch": 3}}}}, "'end_epoch'"),
    ({"train": {"loss": {"G": {"schedule": "lin"}}}}, "train.loss.G .* There is no schedule 'lin'"),
    ({"train": {"loss": {"G": {**RAMP, "end_epoch": 50}}}}, "train.loss.G .* before it starts"),
    ({"train": {"loss": {"G": "much"}}}, "is not a schedule; write .*a plain number"),
    ({"train": {"loss": {"G": True}}}, "cannot be true: it must be a number"),
    ({"train": {"loss": {"G": float("nan")}}}, "train.loss.G .* cannot be nan"),
    ({"train": {"loss": {"G": {"function": "a.B", "wieght": 1}}}}, "'weight'"),
    ({"train": {"loss": {"G": {"weight": "x"}}}}, "train.loss.G.weight .* not a schedule"),
    ({"train": {"generator": {"features": -3}}}, "features .* cannot be -3: .*equal to 1"),
    ({"train": {"generator": {"features": "64"}}}, 'cannot be "64": it should be a valid integer'),
    ({"train": {"generator": {"dropout": 1.0}}}, "less than 1"),
    ({"train": {"generator": {"norm": "group"}}}, "'instance' or 'batch'"),
    ({"train": 3}, "train .* cannot be 3"),
    (
        {"train": {"generator": {"learning_rate": {"epochs": 0, "epochs_decay": 0}}}},
        "must be at least 1",
    ),
    (
        {"train": {"generator": {"learning_rate": {"schedule": {**RAMP, "interval": "step"}}}}},
        "a learning rate changes between epochs",
    ),
    ({"dataloader": {"load": {"load_size": [1, 2, 3]}}}, r"or \[height, width\]"),
    (
        {"dataloader": {"load": {"resize": "cubic"}}},
        r'resize .* cannot be "cubic": it must be bicubic or nearest, or \[input, target\]',
    ),
    ({"dataloader": {"load": {"resize": ["nearest", 3]}}}, "must be bicubic or nearest"),
    ({"dataloader": {"load": {"resize": ["nearest"]}}}, "must be bicubic or nearest"),
    ({"dataloader": {"load": {"input_nc": 65}}}, "less than or equal to 64"),
    ({"dataloader": {"batch_size": True}}, "cannot be true"),
    (
        {"dataloader": {"augmentations": {"both": {"h_flip_chance": 2.0}}}},
        "less than or equal to 1",
    ),
    (
        {"dataloader": {"augmentations": {"input": {"randgamma_min": 130.0}}}},
        "randgamma_min must not be above randgamma_max",
    ),
    ({"common": {"experiment_name": "a/b"}}, 'experiment_name .* cannot be "a/b"'),
    ({"common": {"experiment_name": ""}}, "1 to 100 letters"),
    ({"common": {"experiment_name": ".."}}, "must not begin with '.' or '-'"),
    ({"common": {"seed": -1}}, "cannot be -1"),
    ({"logging": {"csv": False}}, "TensorBoard and MLflow read the CSV files"),
    ({"logging": {"mlflow": {"tracking_uri": "./mlruns"}}}, "it must begin with http://"),
    ({"logging": {"mlflow": {"tracking_uri": "sqlite:x.db"}}}, "sqlite:///"),
    (
        {"train": {"loss": {"G_L1": {"arguments": {"x": 1}}}}},
        "arguments are given without a function",
    ),
    (
        {
            "train": {
                "generator": {
                    "learning_rate": {
                        "initial": 0.1,
                        "schedule": {
                            "schedule": "linear",
                            "start_epoch": 1,
                            "end_epoch": 9,
                            "initial_value": 1.0,
                            "target_value": -1.0,
                        },
                    }
                }
            }
        },
        "learning rate of epoch 6 would be below 0",
    ),
    ({"schema_version": 2}, "schema_version .* cannot be 2"),
]


@pytest.mark.parametrize(("document", "sentence"), BAD_VALUES)
def test_bad_values_are_named_with_their_place(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        ConfigManager(document)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize("text", ["linear,log", "[linear, log]", '["linear", "log"]'])
def test_lists_of_words_as_a_shell_gives_them(text: str) -> None:
    load = ConfigManager(None, [("dataloader.load.transfer", text)]).data.dataloader.load
    assert load.transfer == ["linear", "log"]
    with pytest.raises(ConfigError, match=r"it must be linear, log, .* or \[input, target\]"):
        ConfigManager(None, [("dataloader.load.transfer", text.replace("log", "sqrt"))])


def test_the_place_is_the_file_or_the_option(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"common": {"seed": -1}}')
    with pytest.raises(ConfigError, match=r"common\.seed in config file '.*c\.json' cannot be -1"):
        ConfigManager(tmp_path / "c.json")
    with pytest.raises(ConfigError, match=r"^--set common\.seed cannot be -2"):
        ConfigManager(tmp_path / "c.json", [("common.seed", -2)])
    with pytest.raises(ConfigError, match=r"common\.seed is 3, not a section with 'x'"):
        ConfigManager({"common": {"seed": 3}}, [("common.seed.x", 1)])


def test_the_place_of_an_unknown_section_is_the_option_that_named_it(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"common": {"seed": 1}}')
    with pytest.raises(ConfigError, match=r"^--set trian is not a known key. Did you mean 'train'"):
        ConfigManager(tmp_path / "c.json", [("trian.objective", "basic")])
    (tmp_path / "c.json").write_text('{"common": {"sed": 1}}')
    with pytest.raises(ConfigError, match=r"^common\.sed in config file"):
        ConfigManager(tmp_path / "c.json", [("common.seed", 2)])


def test_numbers_in_yaml_are_those_of_json(tmp_path: Path) -> None:
    # To YAML 1.1, 2e-4 is a text; to everybody who sets a learning rate it is a number.
    for text in ("2e-4", "2E-04", "2.0e-4", "0.0002", "+2.e-4"):
        (tmp_path / "c.yaml").write_text(
            f"train: {{generator: {{learning_rate: {{initial: {text}}}}}}}"
        )
        assert ConfigManager(tmp_path / "c.yaml").data.train.generator.learning_rate.initial == 2e-4
    (tmp_path / "c.yaml").write_text("common: {experiment_name: 2e-4b, output_directory: 1e5/x}")
    common = ConfigManager(tmp_path / "c.yaml").data.common
    assert (common.experiment_name, common.output_directory) == ("2e-4b", "1e5/x")


@pytest.mark.parametrize("text", ["010", "0x1F", "1:30", "0b11", "1_000", "0o17"])
def test_other_ways_to_write_numbers_are_texts(text: str, tmp_path: Path) -> None:
    """In JSON there are none, and YAML 1.1 would read 010 as 8 and 1:30 as 90."""
    path = tmp_path / "c.yaml"
    path.write_text(f"common: {{seed: {text}}}")
    with pytest.raises(ConfigError, match=rf'common.seed .* cannot be "{text}"'):
        ConfigManager(path)
    for name in (text.replace(":", "-"), "2024-01-01"):
        path.write_text(f"common: {{experiment_name: {name}}}")
        assert ConfigManager(path).data.common.experiment_name == name
    for number in ("0", "7", "+7", "12"):
        path.write_text(f"common: {{seed: {number}}}")
        assert ConfigManager(path).data.common.seed == int(number)


def test_yaml_may_merge_and_override(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "train:\n  generator: {learning_rate: &rate {epochs: 3, epochs_decay: 4}}\n"
        "  discriminator: {learning_rate: {<<: *rate, epochs: 5}}\n"
    )
    rate = ConfigManager(tmp_path / "c.yaml").data.train.discriminator.learning_rate
    assert (rate.epochs, rate.epochs_decay) == (5, 4)


@pytest.mark.parametrize("name", ["c.json", "c.yaml"])
def test_files_of_windows_editors(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'\xef\xbb\xbf{"common": {"seed": 7}}\r\n')
    assert ConfigManager(tmp_path / name).data.common.seed == 7


BAD_FILES = {
    "twice.yaml": (b"common: {seed: 1}\ncommon: {seed: 2}", "the key 'common' is given twice"),
    "empty.json": (b"", "not valid JSON"),
    "windows.json": (
        rb'{"dataloader": {"dataroot": "D:\datasets\facades"}}',
        r'Invalid \\escape: .*; in quotes, write a backslash twice, as in "D:\\\\new", or use /',
    ),
    "windows.yaml": (
        rb'dataloader: {dataroot: "D:\datasets"}',
        "unknown escape character .* in quotes, write a backslash twice",
    ),
    "line_breaks.json": (
        rb'{"dataloader": {"dataroot": "D:\new\train"}}',
        r'dataroot .* cannot be "D:\\new\\train": it contains a line break or another control '
        "character; in quotes, write a backslash twice",
    ),
    "nul.json": (rb'{"train": {"vgg_weights": "a\u0000b"}}', "another control character"),
    "torn.json": (b'{"common": {"seed": 1', "not valid JSON: .*line 1"),
    "list.json": (b"[1, 2]", r"must contain sections such as 'train', not \[1, 2\]"),
    "null.json": (b"null", "must contain sections"),
    "twice.json": (b'{"common": {"seed": 1, "seed": 2}}', "the key 'seed' is given twice"),
    "binary.json": (b"\x89PNG\r\n\x1a\n\xff\xfe", "not UTF-8 text"),
    "deep.json": (b"[" * 100_000, "not valid JSON"),
    "tag.yaml": (b"common: !!python/object/apply:os.system [ls]", "not valid YAML"),
    "broken.yaml": (b"a: [1, 2", "not valid YAML"),
    "empty.yaml": (b"", "must contain sections"),
    "self.yaml": (b"&a\ntrain: *a", "config file"),
    "nan.json": (b'{"train": {"loss": {"G": NaN}}}', "cannot be nan"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_config(name: str, tmp_path: Path) -> None:
    content, sentence = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        ConfigManager(tmp_path / name)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        ConfigManager(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        ConfigManager(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        ConfigManager("a\0b")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "common",
                        "train",
                        "loss",
                        "generator",
                        "seed",
                        "config",
                        "G_L1",
                        "schedule",
                        "lambda_l1",
                        "visualizer",
                        "gpu_ids",
                        "load",
                        "points",
                    ]
                )
                | st.text(max_size=4),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_document_raises_anything_but_our_error(document: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ConfigManager(document if isinstance(document, dict) else {"config": document})
        except ConfigError as error:
            assert str(error)


def test_a_whole_term() -> None:
    term = {"function": "torch.nn.HuberLoss", "arguments": {"delta": 0.5}, "weight": RAMP}
    loss = ConfigManager({"train": {"loss": {"G_HUBER": term}}}).data.train.loss["G_HUBER"]
    assert isinstance(loss, LossTerm)
    assert loss.arguments == {"delta": 0.5}
    assert isinstance(loss.weight, ScheduleConfig)
    assert loss.tags is None


@pytest.mark.parametrize(("word", "value"), [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_on_and_off_are_words_though_yaml_reads_booleans(
    tmp_path: Path, word: str, value: str
) -> None:
    (tmp_path / "c.yaml").write_text(f"train: {{cuda_graph: {word}}}")
    assert ConfigManager(tmp_path / "c.yaml").data.train.cuda_graph == value
    override = parse_override(f"train.cuda_graph={word}")
    assert ConfigManager(None, [override]).data.train.cuda_graph == value


@pytest.mark.parametrize(
    ("key", "value"), [("train.compile", True), ("dataloader.cache", True), ("train.compile", 1)]
)
def test_a_word_that_is_not_allowed_there(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        ConfigManager(None, [(key, value)])


@pytest.mark.parametrize("resize", ["nearest", ["nearest", "bicubic"]])
def test_resize_is_one_word_or_two(resize: str | list[str]) -> None:
    config = ConfigManager({"dataloader": {"load": {"resize": resize}}}).data
    assert config.dataloader.load.resize == resize
    assert ConfigManager(config.model_dump(mode="json")).data == config


def test_paths_of_a_config_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/me")
    monkeypatch.setenv("SETS", "/sets")
    config = ConfigManager(
        {
            "common": {"output_directory": "~/runs"},
            "dataloader": {"dataroot": "$SETS/facades"},
            "train": {"vgg_weights": "${SETS}/vgg.pth"},
        },
        [("dataloader.dataroot", "${SETS}/maps")],
    ).data
    assert config.common.output_directory == "/home/of/me/runs"
    assert config.dataloader.dataroot == "/sets/maps"
    assert config.train.vgg_weights == "/sets/vgg.pth"


def test_suggestions_for_a_path_that_is_not_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("configs/own.json", "mine.yaml", "runs/x_v1/config.json"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("{}")
    told = {"own": "configs/own.json", "mine": "mine.yaml", "runs/x_v1": "runs/x_v1/config.json"}
    for typed, meant in told.items():
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            ConfigManager(typed)
        assert str(caught.value).endswith(f" Did you mean '{Path(meant)}'?")
    with pytest.raises(ConfigError) as caught:
        ConfigManager("nothing")
    assert "Did you mean" not in str(caught.value)


def test_messages_about_sections_do_not_show_their_content() -> None:
    secret = {"csv": False, "mlflow": {"tracking_uri": "http://user:SECRET@host"}}
    with pytest.raises(ConfigError) as caught:
        ConfigManager({"logging": secret})
    assert str(caught.value).startswith("logging in the config: csv is false, but TensorBoard")
    with pytest.raises(ConfigError) as caught:
        ConfigManager({"logging": {"mlflow": {"enable": False, "register_model": "m"}}})
    assert str(caught.value).startswith("The config: logging.mlflow.register_model needs")


def test_a_section_is_not_a_number() -> None:
    with pytest.raises(ConfigError, match=r"cannot be 5: it must be a section of options\.$"):
        ConfigManager({"train": {"generator": {"learning_rate": {"schedule": 5}}}})


@pytest.mark.parametrize(
    ("name", "option", "sentence"),
    [
        ("G_SOBEL", 3.0, "has a weight, but objective 'basic' does not have this loss; choose"),
        ("G_LI", 3.0, "is not a loss of objective 'basic', .* Did you mean 'G_L1'"),
        ("mine", {"weight": 3.0}, "is not a loss of objective 'basic', and has no 'function'"),
    ],
)
def test_a_loss_that_the_objective_does_not_have_is_named_with_its_place(
    name: str, option: Any, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"train": {"loss": {name: option}}}))
    with pytest.raises(
        ConfigError, match=f"train.loss.{name} in config file '.*c.json' {sentence}"
    ):
        ConfigManager(path)
    with pytest.raises(ConfigError, match=f"--set train.loss.{name} {sentence}"):
        ConfigManager(None, [(f"train.loss.{name}", option)])
