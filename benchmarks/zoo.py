"""Try the companion on 40 models that nobody here wrote, at random weights: `make zoo`.

Torchvision, timm, transformers and diffusers give the models (``pip install -e '.[zoo]'``), small
ones, on a few random inputs. Some units of each are killed: their biases are lowered. A row tells

- of the census, if it counts what `benchmarks/judge.py` counts, which shares nothing with it: for
  each call of an activation, its units and which of them are dead; and if it saw all samples;
- if looking changed anything: parameters, buffers, modes, hooks, containers, random states;
- of `revive` and `prune`, how many activations they treated of those that have dead units, and how
  much the outputs differ afterwards, relative to their size.

``python benchmarks/zoo.py resnet18 bert`` runs these only; ``-v`` says more.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from judge import Judge, judge
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from companion.detection import census, watch
from companion.revival import prune, revive

EXACT = 1e-5  # a difference of outputs, relative to the largest

# ---- the models ---------------------------------------------------------------------------------

Made = tuple[nn.Module, list[Any]]
ZOO: dict[str, Callable[[], Made]] = {}
"""By name, what makes a model and its batches: tensors, or dictionaries of keyword arguments."""


def images(model: nn.Module, size: int = 64, channels: int = 3, n: int = 4) -> Made:
    """Give a model two batches of random images."""
    return model, [torch.randn(n, channels, size, size) for _ in range(2)]


def tokens(model: nn.Module, **more: Callable[[], Tensor]) -> Made:
    """Give a model two batches of random tokens."""
    vocabulary = 64
    batches = [
        {"input_ids": torch.randint(4, vocabulary, (4, 12))}
        | {name: make() for name, make in more.items()}
        for _ in range(2)
    ]
    return model, batches


def _named(name: str) -> Made:
    from torchvision import models

    return images(getattr(models, name)(weights=None))


def _torchvision() -> Iterator[tuple[str, Callable[[], Made]]]:
    from torchvision import models

    for name in (
        *("resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1"),
    ):
        yield name, partial(_named, name)
    dense = partial(models.DenseNet, 16, (2, 3, 2), 32)
    yield "densenet", lambda: images(dense())
    shuffle = partial(models.ShuffleNetV2, [1, 2, 1], [24, 32, 64, 96, 128])
    yield "shufflenet", lambda: images(shuffle())
    yield "googlenet", lambda: images(models.googlenet(weights=None, init_weights=False))
    blocks = [models.convnext.CNBlockConfig(*c) for c in ((24, 48, 1), (48, 96, 1), (96, None, 1))]
    yield "convnext", lambda: images(models.ConvNeXt(blocks))
    vit = partial(models.VisionTransformer, 32, 8, 2, 4, 32, 64)
    yield "vit_torchvision", lambda: images(vit(), 32)
    swin = partial(models.SwinTransformer, [4, 4], 24, [2, 2], [2, 4], [4, 4])
    yield "swin", lambda: images(swin())


def _created(name: str, options: dict[str, Any], size: int) -> Made:
    from timm import create_model

    return steep_gates(images(create_model(name, **options), size))


def _timm() -> Iterator[tuple[str, Callable[[], Made]]]:
    from timm.layers.activations import HardSwish
    from timm.models import metaformer, mlp_mixer, vgg

    layers = [16, "M", 32, "M", 48, 48, "M", 64, "M"]
    vgg_bn = partial(vgg.VGG, layers, mlp_ratio=0.05, norm_layer=nn.BatchNorm2d)
    yield "vgg_bn", lambda: images(vgg_bn())

    mixer = partial(mlp_mixer.MlpMixer, img_size=32, patch_size=8, num_blocks=2, embed_dim=32)
    yield "mixer", lambda: images(mixer(), 32)
    gated = {"block_layer": mlp_mixer.SpatialGatingBlock, "mlp_layer": mlp_mixer.GatedMlp}
    yield "gmlp", lambda: images(mixer(**gated, mlp_ratio=6), 32)
    caformer = partial(  # StarReLU: s * relu(x) ** 2 + b
        metaformer.MetaFormer,
        depths=[1, 1, 1, 1],
        dims=[16, 24, 32, 64],
        token_mixers=[metaformer.SepConv] * 2 + [metaformer.Attention] * 2,
        norm_layers=[metaformer.LayerNorm2dNoBias] * 2 + [metaformer.LayerNormNoBias] * 2,
    )
    yield "caformer", lambda: silent_rows(images(caformer()), "pwconv1.weight", "fc1.weight")
    atto = {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48), "act_layer": "gelu_tanh"}
    former = {"depths": (1, 1, 1, 2), "embed_dims": (16, 24, 32, 48)}
    named: dict[str, dict[str, Any]] = {
        "convnext_atto": atto,  # LayerNorm2d
        "test_maxvit": {"img_size": 64},
        "efficientformer_l1": former | {"size": 224},
        "test_nfnet": {},  # standardised weights
        "mobilenetv3_small_050": {"act_layer": HardSwish},  # x * relu6(x + 3) / 6
        "test_efficientnet_evos": {},  # EvoNorm: x * sigmoid(v * x) / std
        "test_efficientnet_ln": {},  # layer norm over channels, together with its activation
        "levit_128s": {"size": 224},  # batch norms behind linear layers
        "edgenext_xx_small": {},
    }
    for name, options in named.items():
        size = options.pop("size", 64)
        yield name, partial(_created, name, options, size)


def _transformers() -> Iterator[tuple[str, Callable[[], Made]]]:
    import transformers as t

    t.logging.set_verbosity_error()
    small = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    yield "bert", lambda: tokens(t.BertModel(t.BertConfig(**small)))
    distil = t.DistilBertConfig(vocab_size=64, dim=32, hidden_dim=48, n_layers=2, n_heads=4)
    yield "distilbert", lambda: tokens(t.DistilBertForSequenceClassification(distil))
    gpt2 = t.GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    yield "gpt2", lambda: tokens(t.GPT2LMHeadModel(gpt2))
    llama = small | {"mlp_bias": True, "num_key_value_heads": 2}
    yield "llama", lambda: tokens(t.LlamaForCausalLM(t.LlamaConfig(**llama)))
    experts = {
        "num_local_experts": 4,
        "experts_implementation": "eager",
    }
    mixtral = t.MixtralConfig(**small, **experts, num_key_value_heads=2, hidden_act="relu")
    yield "mixtral", lambda: silent_rows(tokens(t.MixtralForCausalLM(mixtral)), "gate_up_proj")
    t5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    decoded = {"decoder_input_ids": lambda: torch.randint(4, 64, (4, 6))}
    ask = t.T5ForConditionalGeneration
    relu = t.T5Config(**t5, feed_forward_proj="relu")
    yield "t5", lambda: silent_rows(tokens(ask(relu), **decoded), "wi.weight")
    gated = t.T5Config(**t5, feed_forward_proj="gated-gelu")
    yield "t5_gated", lambda: with_bias(tokens(ask(gated), **decoded), "wi_0")
    opt = small | {"ffn_dim": 48, "word_embed_proj_dim": 32}
    yield "opt", lambda: tokens(t.OPTForCausalLM(t.OPTConfig(**opt)))
    bloom = t.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    yield "bloom", lambda: tokens(t.BloomForCausalLM(bloom))
    vit = small | {"image_size": 32, "patch_size": 8}
    yield "vit", lambda: as_keywords("pixel_values", images(t.ViTModel(t.ViTConfig(**vit)), 32))
    whisper = t.WhisperConfig(
        vocab_size=64,
        num_mel_bins=16,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=20,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )

    def listen() -> Made:
        model = t.WhisperForConditionalGeneration(whisper)
        words = partial(torch.randint, 4, 64, (4, 6))
        return model, [
            {"input_features": torch.randn(4, 16, 40), "decoder_input_ids": words()}
            for _ in range(2)
        ]

    yield "whisper", listen
    clip = t.CLIPConfig(text_config=small, vision_config=vit)
    pixels = {"pixel_values": lambda: torch.randn(4, 3, 32, 32)}
    yield "clip", lambda: tokens(t.CLIPModel(clip), **pixels)
    waves = t.Wav2Vec2Config(
        **small,
        conv_dim=(16, 16, 16),
        conv_kernel=(10, 3, 3),
        conv_stride=(5, 2, 2),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_prob=0.0,
    )
    yield (
        "wav2vec2",
        lambda: (
            t.Wav2Vec2Model(waves),
            [{"input_values": torch.randn(4, 400)} for _ in range(2)],
        ),
    )


def as_keywords(name: str, made: Made) -> Made:
    """Hand batches over by a name."""
    return made[0], [{name: batch} for batch in made[1]]


def silent_rows(made: Made, *names: str) -> Made:
    """Zero the first rows of weights that have no bias: a ReLU that reads only zeros is dead."""
    for path, weight in made[0].named_parameters():
        if path.endswith(names):
            rows = weight.data.transpose(0, 1) if weight.ndim == 3 else weight.data
            rows[: len(rows) // 8] = 0
    return made


def steep_gates(made: Made) -> Made:
    """Make some gates v of EvoNorm large: sigmoid(v * x) is flat, x * sigmoid(v * x) is not."""
    for path, parameter in made[0].named_parameters():
        if path.endswith(".v"):
            parameter.data[: len(parameter) // 4] = 1e8
    return made


def with_bias(made: Made, name: str) -> Made:
    """Give linear layers that have no bias one of zeros."""
    for path, module in made[0].named_modules():
        if path.endswith(name):
            module.bias = nn.Parameter(torch.zeros(module.out_features))
    return made


def _diffusers() -> Iterator[tuple[str, Callable[[], Made]]]:
    import diffusers as d

    def noisy(model: nn.Module, channels: int, **more: Callable[[], Any]) -> Made:
        batches = [
            {"sample": torch.randn(4, channels, 16, 16), "timestep": torch.tensor([1, 5, 20, 50])}
            | {name: make() for name, make in more.items()}
            for _ in range(2)
        ]
        return model, batches

    yield (
        "unet",
        lambda: noisy(
            d.UNet2DConditionModel(
                block_out_channels=(16, 32),
                layers_per_block=1,
                sample_size=16,
                in_channels=4,
                out_channels=4,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=24,
                attention_head_dim=4,
                norm_num_groups=8,
            ),
            4,
            encoder_hidden_states=lambda: torch.randn(4, 5, 24),
        ),
    )
    yield (
        "autoencoder_kl",
        lambda: images(
            d.AutoencoderKL(
                block_out_channels=(16, 32),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=8,
                layers_per_block=1,
            ),
            32,
        ),
    )
    dit = partial(
        d.DiTTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    yield (
        "dit",
        lambda: (
            dit(),
            [
                {
                    "hidden_states": torch.randn(4, 4, 8, 8),
                    "timestep": torch.tensor([1, 5, 20, 50]),
                    "class_labels": torch.tensor([1, 2, 3, 4]),
                }
                for _ in range(2)
            ],
        ),
    )


def load() -> None:
    """Fill the zoo."""
    for library in (_torchvision, _timm, _transformers, _diffusers):
        try:
            ZOO.update(library())
        except ImportError as error:
            sys.exit(f"the zoo needs the extra [zoo]: pip install -e '.[zoo]' ({error})")


# ---- killing ------------------------------------------------------------------------------------


def call(model: nn.Module, batch: Any) -> Any:
    """Run a model on a batch."""
    return model(**batch) if isinstance(batch, Mapping) else model(batch)


def judged(model: nn.Module, batches: list[Any]) -> Judge:
    """Count independently."""
    return judge(model, [partial(call, model, batch) for batch in batches])


def kill(model: nn.Module, batches: list[Any]) -> int:
    """Lower a quarter of the biases that feed an activation, far below all that was seen.

    An eighth is raised, which tells an activation from a part of it: where 0.5x(1 + tanh(...)) is
    far up, its tanh is flat. Returns how many were lowered.
    """
    generator = torch.Generator().manual_seed(0)
    biases: dict[int, tuple[Tensor, float]] = {}
    for layer in judged(model, batches).layers:
        if layer.bias is not None and len(layer.bias) > 3:
            largest = max(layer.largest, biases.get(id(layer.bias), (None, 0.0))[1])
            biases[id(layer.bias)] = layer.bias, largest
    for bias, largest in biases.values():
        order = torch.randperm(len(bias), generator=generator)
        with torch.no_grad():
            bias[order[: len(bias) // 4]] -= 30 + 10 * largest
            bias[order[-len(bias) // 8 :]] += 10 + 2 * largest
    return sum(len(bias) // 4 for bias, _ in biases.values())


# ---- (a) the census -----------------------------------------------------------------------------


def compare(report: Any, found: Judge, notes: list[str]) -> int:
    """Count the calls of activations that the census or the judge has alone, and note them."""
    ours = [(mask(layer), f"census only: {layer.name}, {layer.activation}") for layer in report]
    theirs = [(mask(layer), f"judge only: {layer.path}, {layer.kind}") for layer in found.layers]
    n_differ = 0
    for these, those in ((ours, theirs), (theirs, ours)):
        rest = Counter(row for row, _ in those)
        for row, name in these:
            rest[row] -= 1
            if rest[row] < 0:
                n_differ += 1
                notes.append(f"{name}, {sum(row)} of {len(row)} dead")
    return n_differ


def mask(layer: Any) -> tuple[bool, ...]:
    """Which of its units are dead."""
    return tuple(np.asarray(layer.dead).tolist())


# ---- (b) looking changes nothing ----------------------------------------------------------------


def state(model: nn.Module) -> dict[str, Any]:
    """Take down all that looking at a model could change, bit for bit."""
    found: dict[str, Any] = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "python": __import__("random").getstate(),
        "settings": (
            torch.is_grad_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.get_default_dtype(),
            torch.is_inference_mode_enabled(),
            torch._C._len_torch_function_stack(),
        ),
    }
    for name, t in model.state_dict(keep_vars=True).items():
        found[f"tensor {name}"] = _bits(t), id(t), t.requires_grad, t.data_ptr()
        found[f"gradient {name}"] = None if t.grad is None else _bits(t.grad)
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found[f"attribute {name}.{key}"] = _inside(value)
        found[f"keys {name}"] = list(vars(module))
    return found


def _bits(t: Tensor) -> bytes:
    return t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _inside(value: Any, depth: int = 0) -> Any:
    if depth < 4 and isinstance(value, Mapping):
        return id(value), [(repr(k), _inside(v, depth + 1)) for k, v in value.items()]
    if depth < 4 and isinstance(value, list | tuple):
        return id(value), [_inside(v, depth + 1) for v in value]
    if isinstance(value, set | frozenset):
        return id(value), sorted(map(repr, value))
    if isinstance(value, Tensor):
        return id(value), _bits(value)
    return value if isinstance(value, bool | int | float | str | None) else id(value)


@contextmanager
def unchanged(model: nn.Module, what: str, changes: list[str]) -> Iterator[None]:
    """Note what changed meanwhile."""
    before = state(model)
    yield
    after = state(model)
    for key in before | after:
        if before.get(key) != after.get(key):
            changes.append(f"{what} changed {key}")


# ---- (c) revive and prune -----------------------------------------------------------------------


def outputs(model: nn.Module, batches: list[Any]) -> list[Tensor]:
    """Return all numbers that a model puts out, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        found = [call(model, batch) for batch in batches]
    leaves = tree_leaves([dict(o) if isinstance(o, Mapping) else o for o in found])
    return [t.double() for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]


def difference(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest difference, relative to the size of the output it is in."""
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
        for a, b in zip(after, before, strict=True)
    )


# ---- a row --------------------------------------------------------------------------------------


@dataclass
class Result:
    """What was found of one model."""

    name: str
    census: str = "-"
    looking: str = "-"
    revived: str = "-"
    pruned: str = "-"
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def examine(name: str) -> Result:
    """Make a model, and try everything on it."""
    row, start = Result(name), time.process_time()
    torch.manual_seed(0)
    model, batches = ZOO[name]()
    model.eval()
    kill(model, batches)
    found = judged(model, batches)
    before = outputs(model, batches)
    row.notes += [f"judge ignored {line}" for line in dict.fromkeys(found.ignored)]
    changes: list[str] = []
    report = attempt(row, "census", model, changes, lambda: census(model, batches))
    if report is not None:
        row.census = counted(report, compare(report, found, row.notes))
        n_seen = {len(next(t for t in tree_leaves(batch) if t.ndim)) for batch in batches}
        wrong = [layer.name for layer in report if layer.n_seen != len(batches) * max(n_seen)]
        if wrong:
            row.census += f", samples wrong in {len(wrong)}"
            row.notes += [f"census takes other samples in {name}" for name in wrong]
        row.notes += [f"census notes {note}" for note in report.notes]
    for what, act in LOOKS.items():
        if act is watched:
            outputs(model, batches)  # so that caches are full, which the pass would fill
        attempt(row, what, model, changes, partial(act, model, report, batches))
    if report is not None:
        for what, change in (("revived", try_revive), ("pruned", try_prune)):
            run = partial(change, model, report, batches, before, row.notes)
            setattr(row, what, attempt(row, what, model, changes, run) or getattr(row, what))
    row.looking = "nothing" if not changes else f"{len(changes)} things"
    row.notes += changes
    row.seconds = time.process_time() - start
    return row


def attempt(
    row: Result, what: str, model: nn.Module, changes: list[str], act: Callable[[], Any]
) -> Any:
    """Return what a call returns, and note what it changes, and what it raises."""
    with mixed_modes(model), unchanged(model, what, changes):
        try:
            return act()
        except StoppedError:
            return None
        except Exception as error:
            row.notes.append(f"{what}: {type(error).__name__}: {error}")
            if hasattr(row, what):
                setattr(row, what, type(error).__name__)
    return None


@contextmanager
def mixed_modes(model: nn.Module) -> Iterator[None]:
    """Leave every third module in training mode meanwhile."""
    for i, module in enumerate(model.modules()):
        module.training = i % 3 == 1
    yield
    for module in model.modules():
        module.training = False


class StoppedError(Exception):
    """What a loader raises here."""


def interrupted(model: nn.Module, report: Any, batches: list[Any]) -> None:
    """Let a census end by an exception of the loader."""

    def loader() -> Iterator[Any]:
        yield batches[0]
        raise StoppedError

    census(model, loader())


def in_training(model: nn.Module, report: Any, batches: list[Any]) -> None:
    """Count in training mode, which moves buffers."""
    census(model, batches, mode="train")


def watched(model: nn.Module, report: Any, batches: list[Any]) -> None:
    """Watch a pass that moves nothing by itself."""
    flags = [module.training for module in model.modules()]
    for module in model.modules():
        module.training = False
    with torch.no_grad(), watch(model):
        call(model, batches[0])
    for module, flag in zip(model.modules(), flags, strict=True):
        module.training = flag


def planned(model: nn.Module, report: Any, batches: list[Any]) -> None:
    """Ask what revive would do."""
    if report is not None:
        revive(model, report, rng=0, dry_run=True)


LOOKS = {
    "census, interrupted": interrupted,
    "census in training mode": in_training,
    "watch": watched,
    "revive, a dry run": planned,
}


def counted(report: Any, n_differ: int) -> str:
    """Write a census short."""
    units, dead = sum(map(len, report)), sum(int(layer.dead.sum()) for layer in report)
    same = f"{n_differ} differ" if n_differ else "equal"
    return f"{same}, {dead} of {units} dead, {len(report)} layers"


def try_revive(
    model: nn.Module, report: Any, batches: list[Any], before: list[Tensor], notes: list[str]
) -> str:
    """Reset the dead units of a copy."""
    changed = copy.deepcopy(model)
    done = revive(changed, report, rng=0)
    notes += [f"revive left {name}: {why}" for name, why in done.left.items()]
    return said(len(done.units), len(done.left), difference(before, outputs(changed, batches)))


def try_prune(
    model: nn.Module, report: Any, batches: list[Any], before: list[Tensor], notes: list[str]
) -> str:
    """Take dead units out of a copy, which `prune` makes."""
    smaller: Any = prune(model, report)
    left = smaller.left
    notes += [f"prune left {name}: {why}" for name, why in left.items()]
    error = difference(before, outputs(smaller, batches))
    sizes = [sum(map(torch.numel, net.parameters())) for net in (smaller, model)]
    share = 100 * (1 - sizes[0] / sizes[1])
    return f"{said(None, len(left), error)}, {share:.0f} % smaller"


def said(treated: int | None, left: int, error: float) -> str:
    """Write it short."""
    done = "" if treated is None else f"{treated} treated, "
    return f"{done}{left} left, " + ("exact" if error <= EXACT else f"off {error:.1e}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of models; all by default")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what differs or is left")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    load()
    heads = Result("model", "census", "looking changed", "revive", "prune")
    rows = []
    for name in options.names or ZOO:
        rows.append(examine(name))
        for row in [heads, *rows] if len(rows) == 1 else rows[-1:]:
            print(
                f"{row.name:23} {row.census:42} {row.looking:16} {row.revived:28} {row.pruned:26} "
                f"{row.seconds:5.1f}",
                flush=True,
            )
        if options.verbose:
            for note in row.notes:
                print("    " + note.replace("\n", "\n    "), flush=True)


if __name__ == "__main__":
    main()
