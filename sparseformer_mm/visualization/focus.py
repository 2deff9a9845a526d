"""Figures, sheet and page of a row of pictures or videos: vis_focus.py's files."""

from pathlib import Path
from typing import Iterable, List, Sequence

import numpy as np

from .figures import focus_rows, headline, kind_panels
from .page import write_page
from .panels import draw_panels
from .recording import Look
from .statistics import BANDWIDTH, share_in_boxes

# A page with more would take long to open.
PAGE_PICTURES = 24


def draw_looks(
    looks: Iterable[Look],
    out: Path,
    kinds: Sequence[str] = (),
    bandwidth: float = BANDWIDTH,
    page_title: str = 'Where it looks',
) -> None:
    """Write and name the files as the looks come.

    NAME_focus.png of each, NAME_KIND.png of each of ``kinds``, ``sheet.png`` with all,
    and with any kind, which are for pictures only, the page ``index.html``.

    Args:
        looks: at least one.
        out: folder that is there.
        kinds: any of :data:`~.recording.KINDS`.
        bandwidth: of densities.
        page_title: of the page.
    """
    drawn: List[Look] = []
    for look in looks:
        stem = Path(look.name).stem
        # Pictures of several folders may have the same name.
        again = sum(Path(other.name).stem == stem for other in drawn)
        end = f'{again + 1}.png' if again else '.png'
        drawn.append(look)
        rows = focus_rows(look)
        figure = draw_panels(
            [row.panels for row in rows],
            [row.name for row in rows],
            [row.legend for row in rows],
            headline(look),
        )
        file = out / f'{stem}_focus{end}'
        figure.savefig(file)
        print(f'{file}: {look.summary}')
        for kind in kinds:
            title = look.title
            if look.answer and kind != 'density':
                title = f'tokens that answer most to {look.answer}; {title}'
            panels = kind_panels(look, kind, bandwidth)
            figure = draw_panels([panels], [look.name], title=title)
            figure.savefig(out / f'{stem}_{kind}{end}')
    rows = [focus_rows(look)[-1] for look in drawn]
    shares = [
        [share_in_boxes(stage.points, look.boxes) for stage in look.stages]
        for look in drawn
        if look.boxes.size
    ]
    means = zip(drawn[0].stages, np.mean(shares, axis=0)) if shares else ()
    told = ', '.join(f'{stage.name} {share:.0%}' for stage, share in means)
    figure = draw_panels(
        [row.panels for row in rows],
        [headline(look) or look.name for look in drawn],
        [row.legend for row in rows],
        f'points in the true boxes: {told}' if told else '',
    )
    figure.savefig(out / 'sheet.png')
    print(f'all: {out / "sheet.png"}')
    if kinds:
        # The map hides much of the picture: a person switches it on.
        shown = [kind for kind in kinds if kind != 'density'] or kinds
        page = out / 'index.html'
        write_page(
            page, drawn[:PAGE_PICTURES], title=page_title, shown=shown,
            bandwidth=bandwidth,
        )  # fmt: skip
        more = f', the first {PAGE_PICTURES}' if len(drawn) > PAGE_PICTURES else ''
        print(f'page to step through: {page}{more}')
