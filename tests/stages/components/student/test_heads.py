"""Heads on features compute their formulas, on features standardised by statistics that lie among the weights."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone knows it by
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import HeadConfig
from stages.components.student.heads import FeatureHead, build_feature_head

CONFIGS = {
    "linear": HeadConfig("linear"),
    "mlp": HeadConfig("mlp", width=7, dropout=0.5),
    "gated": HeadConfig("gated", width=7, dropout=0.5),
    "residual": HeadConfig("residual", width=7, dropout=0.5),
}
BATCH, FEATURE_DIM, DIM = 6, 5, 3


def features(seed: int = 0) -> Tensor:
    return torch.randn(BATCH, FEATURE_DIM, generator=torch.Generator().manual_seed(seed))


def head_of(kind: str) -> FeatureHead:
    torch.manual_seed(1)
    return build_feature_head(CONFIGS[kind], feature_dim=FEATURE_DIM, embedding_dim=DIM)


def by_formula(kind: str, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """What a head in eval mode computes, written down a second time, from its weights by name."""

    def linear(name: str, inputs: Tensor) -> Tensor:
        return inputs @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def mlp(name: str) -> Tensor:
        hidden = x @ w[f"{name}0.weight"].T
        mean, var = w[f"{name}1.running_mean"], w[f"{name}1.running_var"]
        hidden = (hidden - mean) / (var + 1e-5).sqrt() * w[f"{name}1.weight"] + w[f"{name}1.bias"]
        return linear(f"{name}4", F.gelu(hidden))

    if kind == "linear":
        return linear("layers", x)
    if kind == "mlp":
        return mlp("layers.")
    if kind == "residual":
        return linear("layers.project", x + mlp("layers.mlp."))
    normed = F.layer_norm(x, [FEATURE_DIM], w["layers.norm.weight"], w["layers.norm.bias"])
    gate = linear("layers.gate", normed).clamp(0, 6)
    return linear("layers.project", gate * linear("layers.value", normed))


@pytest.mark.parametrize("kind", CONFIGS)
def test_head__computes_its_formula_on_standardised_features(kind: str) -> None:
    head = head_of(kind)
    mean, std = torch.arange(5.0), torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
    head.set_statistics(mean=mean, std=std)
    head(features(2))  # moves running statistics, where there are any
    head.eval()
    expected = by_formula(kind, head.state_dict(), (features() - mean) / std)
    torch.testing.assert_close(head(features()), expected)
    assert head(features().half()).dtype == torch.float32


@pytest.mark.parametrize("kind", CONFIGS)
def test_head__gives_every_parameter_a_gradient(kind: str) -> None:
    head = head_of(kind)
    head(features()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("kind", ["mlp", "gated", "residual"])
def test_head__drops_hidden_units_while_it_trains(kind: str) -> None:
    head = head_of(kind)
    assert not torch.equal(head(features()), head(features()))
    head.eval()
    assert torch.equal(head(features()), head(features()))


def test_head__only_centres_a_feature_that_does_not_vary() -> None:
    head = head_of("linear")
    head.set_statistics(mean=torch.full((5,), 7.0), std=torch.tensor([0.0, 1, 1, 1, 1]))
    assert head.state_dict()["feature_std"].tolist() == [1.0] * 5
    assert head(torch.full((2, 5), 7.0)).isfinite().all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (HeadConfig("cubic"), "--head must be one of linear, mlp, gated, residual; got 'cubic'"),
        (HeadConfig("linear", width=4), "--head-width must be 0 for a linear head"),
        (HeadConfig("mlp"), "--head-width must be 1 or more; got 0 for mlp"),
    ],
)
def test_head__refuses_what_does_not_fit(config: HeadConfig, message: str) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        build_feature_head(config, feature_dim=5, embedding_dim=3)


def test_feature_head__adds_noise_in_units_of_deviations_in_training_alone() -> None:
    torch.manual_seed(0)
    head = FeatureHead(torch.nn.Identity(), feature_dim=FEATURE_DIM)
    head.set_statistics(mean=torch.zeros(FEATURE_DIM), std=torch.full((FEATURE_DIM,), 4.0))
    head.noise = 0.5
    many = torch.zeros(20_000, FEATURE_DIM)
    torch.testing.assert_close(head.train()(many).std(0), torch.full((FEATURE_DIM,), 0.5), rtol=0.05, atol=0)
    assert torch.equal(head.eval()(many), many)
    assert "noise" not in head.state_dict()
