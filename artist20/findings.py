"""What figures come to, in sentences: the best model, artists, confusions, what choosing gave."""

from collections.abc import Sequence
from typing import Any

from artist20 import comparison, tables
from artist20.tables import escape, percent

MOST_LETTERS = 40  # of a name within a sentence


def best_of(models: dict[str, Any]) -> str:
    """Name the model with the highest top-1, among equals top-3, among equals the first."""
    return max(models, key=lambda name: (models[name]["top1"], models[name]["top3"]))


def best_sentence(models: dict[str, Any]) -> str:
    """Say which model is best on the validation songs."""
    record = models[best_of(models)]
    return (
        f"Best: **{escape(record['title'])}**, top-1 {percent(record['top1'])} "
        f"({tables.interval(record['intervals']['albums']['top1'])}), top-3 "
        f"{percent(record['top3'])}, macro-F1 {record['macro_f1']:.2f}."
    )


def compared(results: dict[str, Any], first: str, second: str) -> str:
    """Say how two models compare on the same songs."""
    models = results["models"]
    pair = comparison.against(results, first)[second]
    of_last = any(models[name]["last"] for name in (first, second))
    at = "; networks at their last epoch" if of_last else ""
    verdict = {"better": "better than", "worse": "worse than"}.get(pair["verdict"])
    return (
        f"{tables.title(models[first])} is {verdict or 'not told apart from'} "
        f"{tables.title(models[second])}: {tables.difference(pair['difference'])} points of top-1 "
        f"({tables.differences(pair['interval'])}), p {p_text(pair)}{at}."
    )


def p_text(pair: dict[str, Any]) -> str:
    """Write a pair's p after Holm's correction."""
    return comparison.p_text(pair["p_holm"]).replace("<", "&lt;")


def short(name: str) -> str:
    """Cut a name that is too long for a sentence."""
    return escape(name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…")


def cut_note(names: Sequence[str]) -> str:
    """Say that the columns of a table cut names, if they do."""
    is_cut = any(len(name) > MOST_LETTERS for name in names)
    return f"Names of more than {MOST_LETTERS} letters may lack their end." if is_cut else ""


def ties(left_out: Sequence[float], easy: float, hard: float) -> str:
    """Say how many are not named who are equal to the last of those who are, if there are any."""
    as_easy, as_hard = (sum(value == end for value in left_out) for end in (easy, hard))
    if not as_easy and not as_hard:
        return ""
    return f" Not named are {as_easy:,} as easy and {as_hard:,} as hard as the last of these."


def artist_sentences(record: dict[str, Any]) -> list[str]:
    """Name a model's easiest and hardest artists, and its most frequent confusion."""
    artists = {name: of for name, of in record["artists"].items() if of["songs"]}

    def share(name: str) -> float:
        return artists[name]["right"] / artists[name]["songs"]

    def some(names: Sequence[str]) -> str:
        counted = [f"{short(n)} ({artists[n]['right']} of {artists[n]['songs']})" for n in names]
        return tables.enumerate_names(counted)

    ranked = sorted(artists, key=share)
    n = max(1, min(3, len(ranked) // 2))
    left = [share(name) for name in ranked[n:-n]]
    ends = [
        f"Easiest artists: {some(ranked[::-1][:n])}; hardest: {some(ranked[:n])}."
        + ties(left, share(ranked[-n]), share(ranked[n - 1]))
    ]
    if not record["confusions"]:
        return [*ends, "No song is taken for another artist's."]
    most = record["confusions"][0]
    songs = record["artists"][most["artist"]]["songs"]
    return [
        *ends,
        f"Most frequent confusion: {short(most['artist'])} taken for {short(most['guess'])}, "
        f"{most['songs']} of {songs} songs.",
    ]


def chosen_sentence(record: dict[str, Any]) -> str:
    """Say what choosing the epoch on the validation songs brought."""
    if not record["last"]:
        return "No epoch is chosen on the validation songs."
    last, gap = record["last"], record["gap"]
    return (
        "That epoch is chosen on the validation songs. The last one reaches "
        f"{percent(last['top1'])} / {percent(last['top3'])}: choosing brought "
        f"{tables.difference(gap['top1'])} and {tables.difference(gap['top3'])} points."
    )


def ablation_sentence(ablation: dict[str, Any], models: dict[str, Any]) -> str:
    """Name the families of features that are worth most to the model that was best in CV."""
    whole, families = models[ablation["model"]]["cv_top1"], ablation["families"]
    without = {name: row["without"] for name, row in families.items() if row["without"] is not None}
    alone = {name: row["alone"] for name, row in families.items() if row["alone"] is not None}
    if not without or not alone:
        return ""
    missed, best = (
        min(without, key=lambda name: without[name]),
        max(alone, key=lambda name: alone[name]),
    )
    return (
        f"In cross-validation, {escape(models[ablation['model']]['title'])} misses `{missed}` most "
        f"({tables.difference(without[missed] - whole)} points without it); alone, `{best}` is "
        f"best ({percent(alone[best])})."
    )
