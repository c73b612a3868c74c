"""Names, families and files → cards; and over all cards and profiles, that they hold what they must."""

import ast
import os
import re
import string
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import backends, catalog
from bench.catalog import HardwareProfile, ModelCard, Published
from bench.errors import UsageError

CARDS = catalog.cards()
FILES = sorted(catalog.MODELS.glob("*.toml"))
FAMILIES = sorted({card.family for card in CARDS.values()})


def names(cards):
    return [card.name for card in cards]


def select(*models, families=(), input_shape=()):
    return catalog.select(models, families, input_shape)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def zoo(folder, monkeypatch):
    """Writes the files of another zoo; bench then knows only those."""

    def write(**files):
        for name, text in files.items():
            (folder / f"{name}.toml").write_text(text)
        monkeypatch.setattr(catalog, "MODELS", folder)
        monkeypatch.setattr(catalog, "PROFILES", folder)

    for cached in (catalog.cards, catalog.profiles):
        cached.cache_clear()
    yield write
    for cached in (catalog.cards, catalog.profiles):
        cached.cache_clear()


# Names


def test_a_name_is_its_card():
    assert select("DPN92") == [CARDS["DPN92"]]
    assert CARDS["DPN92"].family == "DPN"
    assert CARDS["DPN92"].measurable


def test_all_is_every_card_in_order():
    assert select("all") == list(CARDS.values())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("DPN*", ["DPN68", "DPN92", "DPN98", "DPN107", "DPN131"]),
        ("DPN?8", ["DPN68", "DPN98"]),
        ("DPN[69]8", ["DPN68", "DPN98"]),
        ("MobileNetV3_*_x1_25", ["MobileNetV3_large_x1_25", "MobileNetV3_small_x1_25"]),
    ],
)
def test_a_glob_is_all_that_it_matches(pattern, expected):
    assert names(select(pattern)) == expected


def test_models_come_in_the_order_asked_and_once():
    found = select("DPN98", "DPN9?", "DPN68", families=["dpn"])
    assert names(found) == ["DPN98", "DPN92", "DPN68", "DPN107", "DPN131"]


def test_nothing_asked_is_nothing():
    assert select() == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("dpn92", "DPN92"),
        ("DPN29", "DPN92"),
        ("MobileNetv1", "MobileNetV1"),
        ("mobilenet_v3_large_x1_0", "MobileNetV3_large_x1_0"),
        ("PPLCNet_x1.0", "PPLCNet_x1_0"),
    ],
)
def test_an_unknown_model_suggests_the_nearest(name, nearest):
    with pytest.raises(UsageError, match=rf"^no model '{name}'; closest: (.*, )?{nearest}(,.*)?; list them with: "):
        select(name)


@pytest.mark.parametrize("name", ["zzzzzzzz", "*.*", "DPN92\n", "模型", "\udcff", "x" * 10_000])
def test_a_name_like_no_other_is_said_in_one_line(folder, name):
    with pytest.raises(UsageError) as caught:
        select(name)
    assert str(caught.value).startswith(f"no model {name!r}")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_card_is_preferred_to_a_folder_of_its_name(folder):
    (folder / "DPN92").mkdir()
    assert select("DPN92") == [CARDS["DPN92"]]


# Families


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_its_cards(family):
    expected = [name for name, card in CARDS.items() if card.family == family]
    assert names(catalog.of_family(family)) == expected
    assert expected


@settings(deadline=None)
@given(st.sampled_from(FAMILIES), st.randoms(use_true_random=False))
def test_a_family_is_known_by_its_letters(family, random):
    spelt = "".join(
        random.choice([str.lower, str.upper])(char) + random.choice(["", "", "-", "_", " ", ".", "–"])
        for char in family
        if char not in string.punctuation
    )
    assert catalog.of_family(spelt) == catalog.of_family(family)


def test_families_of_similar_names_stay_apart():
    assert not set(names(catalog.of_family("PPLCNet"))) & set(names(catalog.of_family("pplcnetv2")))


@pytest.mark.parametrize(("name", "nearest"), [("MobileNet", "MobileNetV1"), ("DPM", "DPN"), ("GhostNets", "GhostNet")])
def test_an_unknown_family_suggests_the_nearest(name, nearest):
    with pytest.raises(UsageError, match=rf"^no family '{name}'; closest: .*{nearest}"):
        select(families=[name])


@pytest.mark.parametrize("name", ["", "---", "*"])
def test_no_letters_are_no_family(name):
    with pytest.raises(UsageError, match="no family"):
        select(families=[name])


# A user's own files


def write(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"contents of {name}".encode(errors="replace"))


@pytest.mark.parametrize(
    ("files", "asked", "name", "format_"),
    [
        (["net.onnx"], "net.onnx", "net", "onnx"),
        (["net.onnx"], "./net.onnx", "net", "onnx"),
        (["net.v2.onnx"], "net.v2.onnx", "net.v2", "onnx"),
        (["net.pdmodel", "net.pdiparams"], "net.pdmodel", "net", "paddle"),
        (["net.json", "net.pdiparams"], "net.json", "net", "paddle"),
        (["resnet/inference.json", "resnet/inference.pdiparams"], "resnet", "resnet", "paddle"),
        (["resnet/net.pdmodel", "resnet/net.pdiparams", "resnet/config.json"], "resnet/", "resnet", "paddle"),
        (["resnet/model.onnx", "resnet/readme.md"], "./resnet", "resnet", "onnx"),
        (["a b/模型 ñ.onnx"], "a b/模型 ñ.onnx", "模型 ñ", "onnx"),
        ([f"{'x' * 240}.onnx"], f"{'x' * 240}.onnx", "x" * 240, "onnx"),
    ],
)
def test_a_file_or_folder_is_a_card(folder, files, asked, name, format_):
    write(folder, *files)
    (card,) = select(asked, input_shape=(3, 32, 32))
    assert card.name == name
    assert card.family == "own"
    assert card.format == format_
    assert card.input_shape == (3, 32, 32)
    assert card.measurable
    assert Path(card.file).is_absolute()
    assert Path(card.file).samefile(folder / files[0])


def test_the_folder_we_are_in_is_a_model(folder):
    write(folder, "net.onnx")
    assert names(select(".")) == [folder.name]


def test_a_link_keeps_its_suffix_and_its_neighbours(folder):
    """Download caches link names to blobs that have none; parameters lie beside the link."""
    write(folder, "blobs/0a", "blobs/0b")
    for name, blob in {"net.json": "0a", "net.pdiparams": "0b"}.items():
        (folder / name).symlink_to(folder / "blobs" / blob)
    (card,) = select("net.json")
    assert card.name == "net"
    assert card.file == str(folder / "net.json")


@pytest.mark.parametrize(
    ("files", "asked", "message"),
    [
        ([], "net.onnx", "no model file net.onnx; there is no such file; check the path"),
        ([], "./nowhere/net.pdmodel", "no model file nowhere/net.pdmodel"),
        ([], "./nowhere", "cannot tell what model nowhere is; its suffix is ''; give one of .onnx, .pdmodel, .json"),
        (["net.pt"], "net.pt", "cannot tell what model net.pt is; its suffix is '.pt'; give one of"),
        (["net.onnx"], "net.onnx", "no model in net.onnx; the file is empty; export the model again"),
        (["net.json"], "net.json", "no parameters for net.json; net.pdiparams is not beside it; put it there"),
        (["net.pdmodel"], "net.pdmodel", "no parameters for net.pdmodel"),
        (["net/readme.md"], "net", "no single inference model in net; found: none; name the file itself"),
        (["net/a.onnx", "net/b.onnx"], "net", "no single inference model in net; found: a.onnx, b.onnx"),
        ([], f"./{'x' * 300}.onnx", "cannot read xxx"),
        ([], "a/" * 3000, "cannot read a/a/"),
        (["a\nb.onnx"], "a\nb.onnx", "cannot name a model 'a\\nb'; it holds a control character; rename it"),
        (["a\u2028b.onnx"], "a\u2028b.onnx", "cannot name a model"),
        (["a\udcffb.onnx"], "a\udcffb.onnx", "cannot name a model 'a\\udcffb'"),
        (["a\x1b[31m.onnx"], "a\x1b[31m.onnx", "cannot name a model"),
    ],
)
def test_a_file_that_is_no_model_is_said(folder, files, asked, message):
    write(folder, *files)
    if "empty" in message:
        (folder / asked).write_bytes(b"")
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        select(asked)


def test_links_that_lead_nowhere_are_said(folder):
    (folder / "net.onnx").symlink_to("nowhere")
    (folder / "loop.onnx").symlink_to("loop.onnx")
    (folder / "loop").symlink_to("loop")
    for name in ("net.onnx", "loop.onnx", "./loop"):
        with pytest.raises(UsageError):
            select(name)


def test_a_file_named_like_a_card_does_not_share_its_row(folder):
    write(folder, "DPN92.onnx")
    own, card = select("./DPN92.onnx", "DPN92")
    assert re.fullmatch("DPN92@[0-9a-f]{8}", own.name)
    assert card == CARDS["DPN92"]


def test_files_of_one_name_do_not_share_a_row(folder):
    write(folder, "a/net.onnx", "b/net.onnx", "c/net.onnx")
    found = select("a/net.onnx", "b/net.onnx", "c/net.onnx")
    assert len(set(names(found))) == 3
    assert names(found)[0] == "net"


def test_files_that_differ_in_parameters_alone_do_not_share_a_row(folder):
    for place in "abc":
        write(folder, f"{place}/net.pdiparams")
        (folder / place / "net.pdmodel").write_text("the same graph")
    assert len(set(names(select(*(f"{place}/net.pdmodel" for place in "abc"))))) == 3


def test_a_file_asked_twice_is_one_model(folder):
    write(folder, "a/net.onnx")
    (folder / "link").symlink_to("a")
    assert len(select("a/net.onnx", "./a/net.onnx", "a/../a/net.onnx", "link/net.onnx")) == 1


# Broken cards


@pytest.mark.parametrize(
    "text",
    [
        "family = ",
        "\0",
        'family = "A"\n[model.B]\nnetwork = 3',
        'family = "A"\n[model.B]\nnetworks = "models.b:B"',
        'family = "A"\n[model.B]\ninput_shape = [3, "x"]',
        "[model.B]\nparams = 1",
        'family = "A"\nmodel = 3',
        'family = "A"\n[model]\nB = 3',
    ],
)
def test_a_broken_card_names_its_file(zoo, text):
    zoo(good='family = "G"\n[model.G]', mishap=text)
    with pytest.raises(UsageError) as caught:
        select("G")
    assert "mishap.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff", None], ids=["no UTF-8", "unreadable"])
def test_a_card_that_cannot_be_read_names_its_file(zoo, folder, content):
    zoo()
    path = folder / "mishap.toml"
    path.write_bytes(content) if content else path.mkdir()
    with pytest.raises(UsageError, match=r"mishap\.toml"):
        select("G")


@pytest.mark.parametrize("text", ["kind", 'label = "L"', 'label = "L"\nkind = "abacus"'])
def test_a_broken_profile_names_its_file(zoo, text):
    zoo(mishap=text)
    with pytest.raises(UsageError, match=r"mishap\.toml"):
        catalog.profile("cpu")


def test_an_empty_zoo_has_no_models(zoo):
    zoo()
    with pytest.raises(UsageError, match="no model 'DPN92'"):
        select("DPN92")


# Over all cards


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_holds_one_family(path):
    assert set(tomllib.loads(path.read_text())) == {"family", "model"}
    assert catalog.read_family(path)


def test_names_are_unique_over_all_files():
    every = [name for path in FILES for name in catalog.read_family(path)]
    assert len(every) == len(set(every)) == len(CARDS)
    assert len({name.casefold() for name in every}) == len(every)


def factories(module):
    """What a module of networks defines at its top; read, not run, since that takes Paddle."""
    for node in ast.parse((catalog.MODELS / f"{module}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)
def test_a_card_is_complete(card):
    assert card.published.source or card.published == Published(), "figures need a source"
    assert card.params
    assert card.macs
    assert len(card.input_shape) == 3
    assert not card.file
    package, module, factory = re.fullmatch(r"(\w+)\.(\w+):(\w+)", card.network).groups()
    assert package == "models"
    assert factory in factories(module)
    for accuracy in (card.published.top1, card.published.top5):
        assert accuracy is None or 0 < accuracy < 1
    assert (card.published.top1 or 0) <= (card.published.top5 or 1)
    assert (card.published.flops_g is None) == (card.published.flops_convention == "")
    assert card.published.flops_convention in ("", "MACs", "2xMACs")
    assert re.fullmatch(r"|[0-9a-f]{64}", card.weights_sha256)
    assert re.match(r"https://|$", card.weights)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_network_has_a_card(path):
    """A factory that no card names is one that nobody can measure."""
    named = {card.network.partition(":")[2] for card in CARDS.values()}
    module = ast.parse(path.with_suffix(".py").read_text())
    made = [node for node in module.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    assert {target.id for node in made for target in node.targets} <= named


# Over all profiles


@pytest.mark.parametrize("profile", catalog.profiles().values(), ids=lambda profile: profile.name)
def test_a_profile_is_complete(profile):
    assert profile.label
    assert set(profile.backends) <= set(backends.KNOWN)
    for axis in (profile.backends, profile.precisions, profile.batch_sizes, profile.threads):
        assert axis
        assert len(set(axis)) == len(axis)
    assert min(profile.batch_sizes) > 0
    assert min(profile.threads) > 0
    for pattern in (profile.match.cpu, profile.match.gpu, profile.match.soc):
        re.compile(pattern)


def test_only_the_machine_itself_matches_anything():
    unbound = [profile.name for profile in catalog.profiles().values() if profile.match == catalog.Match()]
    assert unbound == ["cpu"]


@pytest.mark.parametrize("profile", catalog.profiles().values(), ids=lambda profile: profile.name)
def test_no_profile_plans_a_simulation(profile):
    known = [backends.get(name) for name in profile.backends if name in backends.names()]
    assert all(backend.default for backend in known)


def test_an_unknown_device_suggests_what_there_is():
    with pytest.raises(UsageError, match="no device 'sd865'; closest: sd855; list them with: bench list devices"):
        catalog.profile("sd865")
    with pytest.raises(UsageError, match="no device 'zzz'; known: cpu, sd855, t4, v100, xeon-6148, xeon-6271c"):
        catalog.profile("zzz")


def test_cards_and_profiles_are_immutable():
    for thing in (ModelCard("a", "b"), catalog.profile("cpu")):
        assert isinstance(thing, ModelCard | HardwareProfile)
        with pytest.raises(AttributeError):
            thing.name = "c"


def test_a_file_that_may_not_be_read_is_said(folder, monkeypatch):
    """Root may read everything, so the system is asked to refuse."""
    (folder / "net").mkdir()

    def refuse(path):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UsageError, match="cannot read net; Permission denied; check the path"):
        select("./net")
