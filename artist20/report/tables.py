"""``results.json`` as tables for the terminal; numbers as tables and slides write them."""

import textwrap
from collections.abc import Sequence

from artist20.report.compare import against, albums_of_all, reference, worst_albums
from artist20.results import Comparison, Figures, Interval

HEADER = ["model", "top-1", "95 %", "top-3", "95 %", "F1", "score"]  # of what _cells fills


def print_all(comparison: Comparison) -> None:
    """Print the figures of all models and songs, the hardest albums, and which models differ."""
    _print_models(comparison)
    _print_test(comparison)
    _print_pooled(comparison)
    albums = albums_of_all(comparison.models.values())
    print("\nAlbums that are hardest for all models together, right of all guesses:")
    for name in worst_albums(albums):
        print(f"{f'{albums[name].right} of {albums[name].songs}':>12}  {name}")
    _print_pairs(comparison)


def _print_models(comparison: Comparison) -> None:
    data = comparison.dataset
    print(
        f"{data.label}: {data.artists} artists, {data.train} training songs, {data.val} validation "
        f"songs of {comparison.val_albums} albums"
    )
    rows = [[*HEADER, "CV"]]
    selected = []
    for row in comparison.models.values():
        val = row.val
        rows.append([row.title, *_cells(val), f"{row.cv.top1:.1%}" if row.cv else "-"])
        if row.last:
            last = row.last
            rows.append(["  last epoch", f"{last.top1:.1%}", "", f"{last.top3:.1%}", *[""] * 4])
            gained = f"{points(val.top1 - last.top1)} and {points(val.top3 - last.top3)} points"
            selected.append(f"{row.title} ({gained})")
    print(aligned(rows))
    _print_wrapped(
        "95 %: interval by bootstrap over albums; results.json has those over songs, too. F1: mean "
        "over artists. Score: top-1 + 0.5 x top-3. CV: top-1 of all training songs together, each "
        "scored by a model that did not learn from its album."
    )
    if selected:
        brought = "Epochs are chosen on these songs, which brought more than the last epoch"
        _print_wrapped(f"{brought}: {', '.join(selected)}.")
    for row in comparison.models.values():
        if row.not_learnt:
            _print_wrapped(f"{row.title}: {row.not_learnt}.")


def _cells(of: Figures) -> list[str]:
    return [
        *(f"{of.top1:.1%}", percents(of.over_albums.top1)),
        *(f"{of.top3:.1%}", percents(of.over_albums.top3)),
        *(f"{of.macro_f1:.2f}", f"{of.course_score:.3f}"),
    ]


def _print_test(comparison: Comparison) -> None:
    """Print what models reached on the test songs beside the validation songs, and the gap."""
    top3 = ["top-3: val", "test", "95 %", "gap"]
    rows = [["model", "top-1: CV", "val", "test", "95 %", "gap", *top3, "score"]]
    for row in comparison.models.values():
        if row.test:
            n_songs = row.test.songs
            cells = [row.title, f"{row.cv.top1:.1%}" if row.cv else "-"]
            for k in ("top1", "top3"):
                val, test = getattr(row.val, k), getattr(row.test, k)
                interval = percents(getattr(row.test.over_songs, k))
                cells += [f"{val:.1%}", f"{test:.1%}", interval, points(test - val)]
            rows.append([*cells, f"{row.test.course_score:.3f}"])
    if len(rows) > 1:
        print(f"\nThe {n_songs} test songs; gap: points above the validation songs")
        print(aligned(rows))
        print("95 %: interval by bootstrap over songs. Score: of the test songs.")


def _print_pooled(comparison: Comparison) -> None:
    """Print what models reached on all songs, each held out."""
    pooled = {row.title: row.pooled for row in comparison.models.values() if row.pooled}
    if pooled:
        data = comparison.dataset
        print(f"\nAll {data.train + data.val} songs, each scored by a model that did not hear it")
        print(aligned([HEADER, *([title, *_cells(of)] for title, of in pooled.items())]))
        _print_wrapped(
            "Training songs in cross-validation, with 4/5 of them to learn from; validation songs "
            "by the model of all training songs, at its last epoch. Task 1's settings, and which "
            "classifier stands on an encoder's embeddings, were chosen in the same folds: the more "
            "there were to choose from, the more that flatters."
        )


def _print_pairs(comparison: Comparison) -> None:
    """Print how one model compares with each other, then all significant differences."""
    models = comparison.models
    best = reference(models)
    if not best:
        print("\nNo paired comparison: it takes two models, one of them cross-validated by album.")
        return
    what = "" if best == "ensemble" else ", the best in CV,"
    print(f"\n{models[best].title}{what} on these songs, against")
    rows = [["", "points", "95 %", "alone right", "p", "it is"]]
    for name, pair in against(comparison, best).items():
        alone = f"{pair.only_first} : {pair.only_second}"
        figures = [points(pair.difference), points_between(pair.interval), alone]
        verdict = pair.verdict.replace("no significant difference", "n.s.")
        rows.append([models[name].title, *figures, p_text(pair.p_holm), verdict])
    print(aligned(rows))
    n_pairs = len(comparison.pairs)
    note = (
        "Points of top-1, their interval by bootstrap over albums; songs that one of the two alone "
        f"has right; p of McNemar's exact test after Holm's correction over all {n_pairs} pairs. "
        f"Better or worse: p below {comparison.significance:g}, and the interval without 0; else "
        "n.s., no significant difference."
    )
    if any(row.last for row in models.values()):
        note += " Networks whose epoch is chosen on these songs are compared at their last epoch."
    _print_wrapped(note)
    beaten = {
        row.title: [
            models[other].title
            for other, pair in against(comparison, name).items()
            if pair.verdict == "better"
        ]
        for name, row in models.items()
    }
    print(f"\nSignificant differences: {sum(map(len, beaten.values()))} of {n_pairs} pairs")
    for title, others in beaten.items():
        if others:
            _print_wrapped(f"{title} is better than {'; '.join(others)}", indent="    ")


def _print_wrapped(text: str, indent: str = "") -> None:
    print(textwrap.fill(text, 100, subsequent_indent=indent))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out in columns, the first one to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def p_text(p: float) -> str:
    """Write a p value to three digits, without calling any zero."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def percents(interval: Interval, dash: str = "-") -> str:
    """Write an interval of shares, in percent: ``36.8-72.4``."""
    low, high = interval
    return f"{100 * low:.1f}{dash}{100 * high:.1f}"


def points(difference: float) -> str:
    """Write a difference of shares, in points; nothing is ``+0.0``, never ``-0.0``."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def points_between(interval: Interval) -> str:
    """Write an interval of differences, in points: ``-9.7 to +16.9``."""
    return " to ".join(map(points, interval))
