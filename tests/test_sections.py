"""Errors in a conf are found before any data exist, and named with their section."""

from pathlib import Path

import pytest

import check
from ast_repr import choices, cli, config, sections

SHIPPED = Path(__file__).parents[1] / "egs" / "openmic" / "conf"
IRMAS = SHIPPED.parents[1] / "irmas" / "conf"
MAGNATAGATUNE = SHIPPED.parents[1] / "magnatagatune" / "conf"


def tell(capsys, *options):
    """(exit code, error output) of the script."""
    code = 0
    try:
        cli.run(check.main, check.parse(), ["--conf-dir", str(SHIPPED), *options])
    except SystemExit as left:
        code = left.code
    return code, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["synthetic", "openmic", "custom"])
@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_every_shipped_conf_is_in_order(corpus, protocol, capsys):
    studies = ",".join(config.studies(SHIPPED))
    options = ["--corpus", corpus, "--protocol", protocol, "--conf", f"all,{studies}"]
    assert tell(capsys, *options) == (0, "")


def test_options_of_ast_that_suit_any_weights_are_in_order(capsys):
    assert tell(capsys, "--conf", "tokens") == (0, "")
    code, error = tell(capsys, "--conf", "ast_unet", "--set", "backbone.patchout_time=1.5")
    assert code == 2 and "patchout_time 1.5" in error


@pytest.mark.parametrize("network", ["ast", "musicnn"])
@pytest.mark.parametrize("name", [*choices.confs(IRMAS), "mixing"])
def test_the_confs_of_irmas_are_in_order(name, network):
    for variant in config.select(IRMAS, name):
        sections.check(config.load(IRMAS, variant, "irmas", network=network))


@pytest.mark.parametrize("network", ["ast", "musicnn"])
@pytest.mark.parametrize("name", choices.confs(MAGNATAGATUNE))
def test_the_confs_of_magnatagatune_are_in_order(name, network):
    conf = config.load(MAGNATAGATUNE, name, "magnatagatune_synthetic", network=network)
    sections.check(conf)
    assert conf == config.load(MAGNATAGATUNE, name, "magnatagatune", network=network)
    assert conf.select.metric == "map"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("reprogrammer.name=unte", "unet"),
        ("reprogrammer.resid=true", "residual"),
        ("reprogrammer.learns=none", "learns"),
        ("reprogrammer.name=nowhere.Gain", "nowhere"),
        ("feature.bnis=64", "bins"),
        ("backbone.name=vit", "backbone"),
        ("backbone.depth=3", "depth"),
        ("head.nrom=false", "norm"),
        ("head.name=forrest", "forest"),
        ("method.targt=soft", "targets"),
        ("method.name=teacher", "mean_teacher"),
        ("optimizer.name=adan", "adam"),
        ("optimizer.name=sgd", "lr"),
        ("optimizer.betass=1", "betass"),
        ("schedule.warmpu=1", "warmup"),
        ("schedule.name=cos", "cosine"),
        ("train.epoch=5", "train.epochs"),
    ],
)
def test_an_unknown_name_option_or_value_is_a_usage_error(setting, named, capsys):
    code, error = tell(capsys, "--conf", "ast_unet,ast_linear", "--set", setting)
    assert code == 2 and error.count("\n") == 1 and named in error


def test_what_holds_only_on_a_corpus_without_vggish_is_checked_too(capsys, tmp_path):
    conf = config.load(SHIPPED, "forest", lacking=["vggish"])
    sections.check(conf)
    (tmp_path / "base.yaml").write_text((SHIPPED / "base.yaml").read_text())
    text = (SHIPPED / "forest.yaml").read_text()
    (tmp_path / "forest.yaml").write_text(text.replace("name: logmel", "name: logmle"))
    code, error = tell(capsys, "--conf", "forest", "--conf-dir", str(tmp_path))
    assert code == 2 and "forest" in error and "logmel" in error
