"""How a published checkpoint names what our networks hold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

# A rule is (published prefix, our prefix). In both, {pair} is 0 (convolution) or 1 (normalisation) there and
# `conv` or `norm` here, {even} is 0, 2, 4 there and 0, 1, 2 here, {a} and {b} are any number, kept.
Rule = tuple[str, str]
_PLACEHOLDERS = {"pair": "([01])", "even": r"([0246])", "a": r"(\d+)", "b": r"(\d+)"}
_TRANSLATED = {"pair": lambda x: ("conv", "norm")[int(x)], "even": lambda x: str(int(x) // 2)}


@dataclass(frozen=True)
class Layout:
    """The published entries of one network and their names here.

    Args:
        rules: tried in order; the first whose published prefix fits renames an entry.
        unused: entries of the published network that reach no output, and their shapes. They are accepted and
            not kept; only the paper's rule counts them.
        unused_reads: path here of the module whose output the unused entries read, if they run at all.
        ignored: regular expressions of entries that other variants add and that reach no output.
        parts: submodules here that are published in a file each.
    """

    rules: tuple[Rule, ...] = ()
    unused: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unused_reads: str | None = None
    ignored: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(published), ours) for published, ours in self.rules]

    def rename(self, key: str) -> str:
        """Return our name of the published entry `key`, or `key` where no rule fits."""
        for pattern, ours in self._compiled:
            match = pattern.match(key)
            if match:
                return ours.format(**_translate(match.groupdict())) + key[match.end() :]
        return key

    def ignores(self, key: str) -> bool:
        """Return whether the published entry `key` belongs to another variant and reaches no output."""
        return any(re.match(pattern, key) for pattern in self.ignored)

    def with_unused(self, unused: Mapping[str, tuple[int, ...]], reads: str | None = None) -> Layout:
        """Return this layout with `unused` entries, which run on the output of `reads` or not at all."""
        return replace(self, unused=unused, unused_reads=reads)

    @property
    def unused_parameters(self) -> int:
        """Number of parameters in `unused`; the statistics of batch normalisation are none."""
        return sum(math.prod(shape) for key, shape in self.unused.items() if not _is_statistic(key))


def pair_entries(prefix: str, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the published entries, and shapes, of a convolution without bias and its batch normalisation."""
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{prefix}.0.weight": weight,
        **{f"{prefix}.1.{name}": (weight[0],) for name in vectors},
        f"{prefix}.1.num_batches_tracked": (),
    }


def backbone_rules() -> tuple[Rule, ...]:
    """Return the rules of the shared 2D backbone."""
    block, ours = "feature_extraction.layer{a}.{b}", "features.stage{a}.{b}"
    return (
        ("feature_extraction.firstconv.{even}.{pair}", "features.stem.{even}.{pair}"),
        (block + ".conv1.0.{pair}", ours + ".conv1.{pair}"),
        (block + ".conv2.{pair}", ours + ".conv2.{pair}"),
        (block + ".downsample.{pair}", ours + ".shortcut.{pair}"),
    )


def encoder_decoder_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """Return the rules of one encoder-decoder."""
    return (
        *((f"{published}.conv{i}.0.{{pair}}", f"{ours}.encode{i}.{{pair}}") for i in (1, 2, 3, 4)),
        (f"{published}.conv5.{{pair}}", f"{ours}.decode1.{{pair}}"),
        (f"{published}.conv6.{{pair}}", f"{ours}.decode2.{{pair}}"),
        (f"{published}.redir{{a}}.{{pair}}", f"{ours}.skip{{a}}.{{pair}}"),
        (f"{published}.attention_block.qkv_3d", f"{ours}.attention.qkv"),
        (f"{published}.attention_block.final1x1", f"{ours}.attention.project"),
    )


def head_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """Return the rules of one head."""
    return (f"{published}.0.{{pair}}", f"{ours}.conv.{{pair}}"), (f"{published}.2", f"{ours}.logits")


def aggregation_rules(encoders: int, heads: Iterable[int]) -> tuple[Rule, ...]:
    """Return the rules of `encoders` encoder-decoders and of heads numbered `heads` there, 0, 1, … here."""
    rules: list[Rule] = [
        ("dres0.{even}.{pair}", "aggregation.reduce.{even}.{pair}"),
        ("dres1.{even}.{pair}", "aggregation.residual.{even}.{pair}"),
    ]
    for i in range(encoders):
        rules += encoder_decoder_rules(f"dres{i + 2}", f"aggregation.encoders.{i}")
    for i, head in enumerate(heads):
        rules += head_rules(f"classif{head}", f"aggregation.heads.{i}")
    return tuple(rules)


def attention_rules(suffix: str = "") -> tuple[Rule, ...]:
    """Return the rules of the attention branch, whose 3D parts carry `suffix` in ACVNet's current network."""
    return (
        ("patch_l1", "attention_branch.patches.0"),
        ("patch_l2", "attention_branch.patches.1"),
        ("patch_l3", "attention_branch.patches.2"),
        ("patch", "attention_branch.patch"),
        (f"dres1_att{suffix}.{{even}}.{{pair}}", "attention_branch.reduce.{even}.{pair}"),
        *encoder_decoder_rules(f"dres2_att{suffix}", "attention_branch.encoder"),
        *head_rules(f"classif_att{suffix}", "attention_branch.head"),
    )


def _pattern(published: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", published)
    text = "".join(
        f"(?P<{part}>{_PLACEHOLDERS[part][1:-1]})" if i % 2 else re.escape(part)
        for i, part in enumerate(parts)
    )
    return re.compile(text + r"(?=\.|$)")


def _translate(values: Mapping[str, str]) -> dict[str, str]:
    return {
        name: _TRANSLATED[name](value) if name in _TRANSLATED else value for name, value in values.items()
    }


def _is_statistic(key: str) -> bool:
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))
