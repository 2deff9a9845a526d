"""What ``run_ablations.py`` writes: comparison with the paper's order, tables, plot."""

import itertools
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence

INTRO = """# Ablations on handwritten digits

Top-1 in percent after the last epoch; every row is trained from scratch. The paper's
figures are for SparseFormer-T on ImageNet-1K (inflation: on Kinetics-400), the rows
here are scaled to a model of 16 tokens with 16 points each.

A pair of rows is in the paper's order or reversed if it differs by more than the noise,
two standard errors of the difference; else it is too close to call. With a single seed
that is the noise of validation alone: another seed may differ by more. Rows that the
paper does not have stand where its trend would put them.
"""


@dataclass
class Scored:
    """A row of an ablation and what it has reached.

    Args:
        name: of the row.
        rank: its place by the paper, from the worst; the same where the paper's
            accuracy is.
        top1: percent per seed; empty for a row that has not been trained.
        params, macs, macs_as_published: of the model, the last without the products of
            mixing, as the paper counts.
    """

    name: str
    rank: int
    top1: Dict[int, float] = field(default_factory=dict)
    params: int = 0
    macs: int = 0
    macs_as_published: int = 0

    @property
    def mean(self) -> Optional[float]:
        return statistics.mean(self.top1.values()) if self.top1 else None


@dataclass
class Pair:
    """Two rows, of which the paper has one below the other or both alike.

    Args:
        lower, higher: their names; in the order of the rows where the paper has none.
        gain: how much higher the second is here, in points.
        noise: two standard errors of the gain.
        tied: whether the paper has them alike.
    """

    lower: str
    higher: str
    gain: float
    noise: float
    tied: bool = False

    @property
    def outcome(self) -> str:
        """'tied', 'agrees', 'close' (too close to call) or 'reversed'."""
        if self.tied:
            return 'tied'
        if abs(self.gain) <= self.noise:
            return 'close'
        return 'agrees' if self.gain > 0 else 'reversed'


def compare(rows: Sequence[Scored], num_val: int) -> List[Pair]:
    """Every pair of rows against the paper's order.

    The noise comes from the number of validation samples (as if the two rows saw
    different ones, which is cautious) and, where rows have several seeds, from how far
    these are apart, pooled over the rows.

    Args:
        rows: trained rows of one group.
        num_val: how many samples each was validated on.
    """
    spreads = [
        statistics.variance(row.top1.values()) for row in rows if len(row.top1) > 1
    ]
    spread = statistics.mean(spreads) if spreads else 0.0
    pairs = []
    for low, high in itertools.combinations(rows, 2):
        if low.rank > high.rank:
            low, high = high, low
        variance = sum(
            row.mean * (100 - row.mean) / num_val + spread / len(row.top1)
            for row in (low, high)
        )
        pairs.append(
            Pair(
                low.name,
                high.name,
                high.mean - low.mean,
                2 * math.sqrt(variance),
                low.rank == high.rank,
            )
        )
    return pairs


def verdict(pairs: Sequence[Pair]) -> str:
    """Whether the paper's order holds.

    Returns:
        'holds' (no pair is against it, noise or not), 'does not hold' (one is by more
        than the noise) or 'undecided' (only within the noise).
    """
    ordered = [pair for pair in pairs if not pair.tied]
    if any(pair.outcome == 'reversed' for pair in ordered):
        return 'does not hold'
    return 'holds' if all(pair.gain > 0 for pair in ordered) else 'undecided'


def explain(pairs: Sequence[Pair]) -> str:
    """One line on a group: the verdict and the pairs it rests on."""

    def named(found: Sequence[Pair]) -> str:
        return ', '.join(
            f'{pair.higher} over {pair.lower} {pair.gain:+.1f} (noise {pair.noise:.1f})'
            for pair in found
        )

    by_outcome: Dict[str, List[Pair]] = {}
    for pair in pairs:
        by_outcome.setdefault(pair.outcome, []).append(pair)
    ordered = sum(not pair.tied for pair in pairs)
    agree = len(by_outcome.get('agrees', []))
    found = verdict(pairs)
    line = (
        f"The paper's order {'is ' if found == 'undecided' else ''}**{found}** here: "
        f'{agree} of {ordered} pairs are in it by more than the noise'
    )
    if 'reversed' in by_outcome:
        line += f'; reversed: {named(by_outcome["reversed"])}'
    if 'close' in by_outcome:
        line += f'; too close to call: {named(by_outcome["close"])}'
    if 'tied' in by_outcome:
        line += f'; alike in the paper: {named(by_outcome["tied"])}'
    return line + '.'


def table(label: str, rows: Sequence[Scored], seeds: Sequence[int]) -> str:
    """A Markdown table of the rows, '-' where nothing has been trained."""
    heads = [label, 'params (M)', 'multiply-adds (G)', 'without mixing']
    heads += [f'top-1, seed {seed}' for seed in seeds]
    if len(seeds) > 1:
        heads.append('mean')
    heads.append("paper's order")

    def percent(value: Optional[float]) -> str:
        return '-' if value is None else f'{value:.1f}'

    lines = [heads, ['---'] * len(heads)]
    for row in rows:
        cells = [
            row.name,
            f'{row.params / 1e6:.2f}',
            f'{row.macs / 1e9:.4f}',
            f'{row.macs_as_published / 1e9:.4f}',
        ]
        cells += [percent(row.top1.get(seed)) for seed in seeds]
        if len(seeds) > 1:
            cells.append(percent(row.mean))
        lines.append([*cells, str(row.rank + 1)])
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def markdown(groups: Sequence[dict], seeds: Sequence[int]) -> str:
    """The whole page.

    Args:
        groups: dicts of title, label, paper, budget (epochs, train, val), rows and
            pairs (None until all rows are there).
        seeds: columns of the tables.
    """
    page = [INTRO]
    for group in groups:
        pairs = group['pairs']
        page += [
            f'## {group["title"]}\n',
            table(group['label'], group['rows'], seeds) + '\n',
            'Rows are missing.\n' if pairs is None else explain(pairs) + '\n',
            f'Paper: {group["paper"]}. '
            'Epochs here: {epochs}; samples: {train} to train, {val} to validate.\n'
            ''.format(**group['budget']),
        ]
    return '\n'.join(page)


def plot(groups: Sequence[dict], path: Path) -> None:
    """A panel per group: dashes for means, dots for seeds, rows as in the table."""
    from matplotlib.figure import Figure

    columns = min(4, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * lines), dpi=120, layout='constrained')
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, group in zip(panels, groups):
        rows, pairs = group['rows'], group['pairs']
        for place, row in enumerate(rows):
            values = list(row.top1.values())
            panel.plot([place] * len(values), values, '.', color='#1f3a5f')
            if values:
                panel.plot(place, row.mean, '_', color='#c44e52', markersize=24)
        panel.set_xticks(range(len(rows)), [row.name for row in rows])
        panel.set_xlim(-0.5, len(rows) - 0.5)
        panel.grid(axis='y', alpha=0.3)
        panel.set_ylabel('top-1 (%)')
        outcome = 'rows are missing' if pairs is None else verdict(pairs)
        panel.set_title(f"{group['title']}\npaper's order: {outcome}", fontsize=9)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    figure.savefig(path)
