"""The ablations in stages: choose a head rule, choose a query rule with it, test the pair, look at its errors.

    1  head_ablation, or a sweep like it: every head rule and number of heads
    2  every query rule, with the winner of stage 1, at its layers and ranks
    3  the winner of stage 2, beside the same heads and the plain head rule without its query rule, and other methods,
       on all questions
    4  which answers flip, by subject and kind of question

A winner among many looks better than it is. So stages 1 and 2 choose on the first questions only, stage 3 reports the
others apart, and each choice says among how many it was made. Two candidates are compared by their scores on each
question, summed over the budgets: a sign test over questions, so that the budgets of one question count once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import yaml

from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.spec import SpecError, SweepSpec, load_sweep
from results.analysis.matrix import Answers
from results.analysis.metrics import answers, flip_matrices, spoken, summarise
from results.analysis.significance import Floats, Ints, paired_test
from results.disk import write_whole
from results.escaping import csv_text, markdown_cell
from results.exchange.originals import ABLATION
from results.experiment import Experiment
from results.wording import number, p_value, percent, points, points_span
from strategies.queries import QueryRule
from workers.work import Scalar

Settings = tuple[tuple[str, Scalar], ...]
Runner = Callable[[Prepared, Path], Experiment]
SCORE = 10**6  # parts of a score of 1
RIVALS = ("fastv", "random")  # what the winner is held against besides plainer rules
PLAIN_HEAD, PLAIN_QUERY = "sum", "last_token"  # what every other rule has to beat


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """The winner against one other candidate, on the questions that chose it."""

    other: str
    better: int  # questions with a higher score of the winner, summed over the budgets
    worse: int
    p: float  # exact sign test, for this pair alone
    p_adjusted: float  # times the number of candidates that the winner was chosen over, at most 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The best of several settings."""

    winner: Settings
    accuracy: float  # mean over the budgets, on the questions that chose it: too good
    candidates: int
    ties: int  # candidates with the very same accuracy, the winner included
    questions: int
    runner_up: Duel | None
    plain: Duel | None  # against the plain rule; None where that is the winner, or was not run

    @property
    def text(self) -> str:
        return _text(self.winner)


def choose(table: Answers, keys: Sequence[str], plain: Mapping[str, Scalar]) -> Choice:
    """The setting with the highest score, summed over budgets and layers, on the image questions all have answered.

    Args:
        table: Of an ablation.
        keys: Parameters that make a candidate.
        plain: The candidate to compare the winner with, by some of these parameters; the others as the winner's.

    Raises:
        SpecError: Nothing has been answered.
    """
    table = table.of_images(True)
    groups: dict[Settings, list[int]] = {}
    for row, point in enumerate(table.points):
        if point.strategy == ABLATION:
            params = dict(point.params)
            groups.setdefault(tuple((key, params[key]) for key in keys), []).append(row)
    rows = [row for members in groups.values() for row in members]
    used = table.answered_PS[rows].all(axis=0)
    if not rows or not used.any():
        raise SpecError("no question has been answered by all candidates of the ablation; look at its failures")
    right = {settings: _points(table.score_PS[members][:, used]) for settings, members in groups.items()}
    ranking = sorted(right, key=lambda settings: -int(right[settings].sum()))  # stable: ties go to the grid's order
    winner, others = ranking[0], ranking[1:]
    wanted = dict(winner) | dict(plain)
    rival = tuple((key, wanted[key]) for key in keys)
    best, clusters = int(right[winner].sum()), table.cluster_S[used]
    return Choice(
        winner=winner,
        accuracy=best / SCORE / (len(groups[winner]) * int(used.sum())),
        candidates=len(ranking),
        ties=sum(int(score.sum()) == best for score in right.values()),
        questions=int(used.sum()),
        runner_up=_duel(right, winner, others[0], clusters, len(others)) if others else None,
        plain=_duel(right, winner, rival, clusters, len(others)) if rival in right and rival != winner else None,
    )


def _points(score_PS: Floats) -> Ints:
    """(S,) what each question earns over the budgets, in whole parts of a score, so that equal sums are equal."""
    return np.rint(SCORE * score_PS.sum(axis=0, dtype=np.float64)).astype(np.int64)


def _duel(right: Mapping[Settings, np.ndarray], winner: Settings, other: Settings, cluster_S: Ints, tests: int) -> Duel:
    change = right[winner] - right[other]
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    p = float(paired_test(np.sign(change)[None].astype(np.float64), True, cluster_S).p[0])
    return Duel(other=_text(other), better=better, worse=worse, p=p, p_adjusted=min(1.0, p * tests))


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationResult:
    """What all stages found."""

    heads: Choice
    queries: Choice
    held_out: pd.DataFrame  # the final points on questions that chose nothing: columns of `metrics.summarise`
    everything: pd.DataFrame  # on all questions
    flips: pd.DataFrame  # answers that the winner flipped, by group
    report: Path


def ablate(out: Path, sweep: str, overrides: Mapping[str, Any], runner: Runner) -> AblationResult:
    """Run all stages; cells that exist are not computed again.

    Args:
        out: Directory; each stage is an experiment in it.
        sweep: Of the first stage: a file, or a shipped sweep's name. All stages ask its model its task.
        overrides: Of this sweep, as for `load_sweep`. Its ``samples`` are the questions that choose; ``all`` leaves
            none to test on.
        runner: Computes a prepared sweep in a directory.

    Raises:
        SpecError, StoreError, ModelError, DataError: As in running a sweep.
    """
    spec = load_sweep(sweep, overrides)
    if all(point.strategy != ABLATION for point in spec.points):
        raise SpecError(f"{sweep}: has no grid entry of `strategy: {ABLATION}`, whose head rules are to be compared")
    first = runner(prepare(spec), out / "1_heads")
    heads = choose(answers(first), ("head", "heads_kept"), {"head": PLAIN_HEAD})
    rules = {**dict(heads.winner), "query": list(get_args(QueryRule))}
    quality = spec.engine.measure.quality
    queried = _written(out / "2_queries.yaml", spec, [rules], samples=spec.sample_limit, quality=quality)
    second = runner(queried, out / "2_queries")
    queries = choose(answers(second), ("query",), {"query": PLAIN_QUERY})
    winner = dict(heads.winner) | dict(queries.winner)
    same_heads, plain = ({**winner, **other, "query": PLAIN_QUERY} for other in ({}, {"head": PLAIN_HEAD}))
    last = _written(out / "3_final.yaml", spec, [winner, same_heads, plain], rivals=RIVALS)
    third = runner(last, out / "3_final")
    table = answers(third)
    chosen_on = set(answers(first).samples) | set(answers(second).samples)
    fresh = np.array([name not in chosen_on for name in table.samples])
    held_out = summarise(table.on(fresh))
    flips = flipped_groups(third, table)
    result = AblationResult(
        heads=heads, queries=queries, held_out=held_out, everything=summarise(table), flips=flips,
        report=out / "ablation.md",
    )  # fmt: skip
    write_whole(out / "flips.csv", csv_text(flips).encode("utf-8-sig"))
    found = {"heads": asdict(heads), "queries": asdict(queries), "held_out_questions": int(fresh.sum())}
    write_whole(out / "ablation.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(result.report, report_text(result).encode())
    return result


def _written(
    path: Path,
    spec: SweepSpec,
    rules: Sequence[Mapping[str, Any]],
    *,
    samples: int | None = None,
    quality: bool = False,
    rivals: Sequence[str] = (),
) -> Prepared:
    """The sweep of a later stage, as a file too: some rules, and other strategies, at the budgets of the first.

    Args:
        path: Of the file.
        spec: Of the first stage.
        rules: Parameters of the ablation; a list stands for each of its values.
        samples: How many of the first questions; None: all.
        quality: Whether the choice of tokens is measured.
        rivals: Names of strategies without parameters.
    """
    engine = spec.engine
    pruning = sorted((one for one in spec.points if one.strategy == ABLATION), key=lambda one: (-one.layer, -one.rank))
    budgets = dict.fromkeys((one.layer, one.rank if one.share is None else one.kept) for one in pruning)
    settings = [*({"strategy": ABLATION, **params} for params in rules), *({"strategy": name} for name in rivals)]
    task = {name: value for name, value in asdict(engine.task).items() if name != "data" and value is not None}
    document = {
        "name": path.stem,
        "model": {name: value for name, value in asdict(engine.model).items() if value is not None},
        "task": task,
        "data": engine.task.data,
        "samples": "all" if samples is None else samples,
        "max_new_tokens": engine.max_new_tokens,
        "seed": engine.seed,
        "measure": {"quality": quality},
        "grid": [{**setting, "layer": layer, "rank": rank} for setting in settings for layer, rank in budgets],
    }
    text = "# Written by `saccade ablate` from what its earlier stages chose.\n"
    write_whole(path, (text + yaml.safe_dump(document, sort_keys=False)).encode())
    return prepare(load_sweep(path))


def flipped_groups(experiment: Experiment, table: Answers) -> pd.DataFrame:
    """Answers that each point flipped against the un-pruned model, by subject, topic, category and skill.

    Returns:
        Rows label, by, group, n (image questions), lost, gained (with a lower and a higher score); the groups with the
        greatest loss first.
    """
    images = table.of_images(True)
    assert images.baseline is not None, "every sweep holds the un-pruned model"
    samples = experiment.samples.set_index("id").loc[list(images.samples)]
    lost_PS, gained_PS = flip_matrices(images)
    rows = []
    for row, point in enumerate(images.points):
        if row == images.baseline:
            continue
        both = images.answered_PS[row] & images.answered_PS[images.baseline]
        for kind in ("subject", "topic", "category", "skill"):
            names = samples[kind].to_numpy(dtype=object)
            for group in pd.unique(names):
                inside = (names == group) & both
                counts = tuple(int((inside & of).sum()) for of in (inside, lost_PS[row], gained_PS[row]))
                rows.append((point.label, kind, group, *counts))
    table_ = pd.DataFrame(rows, columns=["label", "by", "group", "n", "lost", "gained"])
    order = {label: place for place, label in enumerate(dict.fromkeys(table_["label"]))}
    table_["_order"] = table_["label"].map(order)
    table_ = table_.sort_values(["_order", "by", "lost"], ascending=[True, True, False], kind="stable")
    return table_.drop(columns="_order").reset_index(drop=True)


def report_text(result: AblationResult) -> str:
    """The four stages in Markdown."""
    lines = ["# Head and query ablation", ""]
    for place, name, choice in ((1, "Head rule", result.heads), (2, "Query rule", result.queries)):
        lines += [f"## {place}. {name}", "", *(f"- {line}" for line in choice_lines(choice)), ""]
    fresh = result.held_out
    count = int(fresh["n"].max()) if len(fresh) else 0
    lines += ["## 3. The winner on questions that chose nothing", ""]
    if count:
        made_by = f"95 %: {spoken(fresh['diff_interval'])}; p: {spoken(fresh['test'])}"
        lines += [f"{count} image questions; change in percentage points against the un-pruned model. {made_by}.", ""]
        lines += ["| setting | accuracy % | change | 95 % | p (Holm) |", "| --- | ---: | ---: | ---: | ---: |"]
        for _, row in fresh.iterrows():
            start = f"| {markdown_cell(row['label'])} | {number(100 * row['accuracy'])} |"
            if row["baseline"]:
                lines.append(f"{start} | | |")
            else:
                span = points_span(row["diff_low"], row["diff_high"])
                lines.append(f"{start} {points(row['difference'])} | {span} | {p_value(row['p_holm'])} |")
    else:
        lines.append("None is left: all questions were used to choose, so the accuracies above are too high.")
    winner = next((label for label in result.flips["label"]), "")
    lines += [
        "",
        "## 4. Answers flipped by the winner",
        "",
        f"`{winner}`, all image questions; flips.csv has the others.",
        "",
    ]
    lines += ["| by | group | n | lost | gained |", "| --- | --- | ---: | ---: | ---: |"]
    own = result.flips[result.flips["label"] == winner]
    for _, row in own[(own["lost"] + own["gained"]) > 0].iterrows():
        lines.append(f"| {row['by']} | {markdown_cell(row['group'])} | {row['n']} | {row['lost']} | {row['gained']} |")
    return "\n".join(lines) + "\n"


def choice_lines(choice: Choice) -> list[str]:
    """What a choice is worth, one line each."""
    lines = [
        f"best of {choice.candidates}: {choice.text}, {percent(choice.accuracy)} on the {choice.questions} image "
        "questions that chose it (too high: it was chosen for it)"
    ]
    if choice.ties > 1:
        lines.append(f"{choice.ties} of them have this very accuracy; the first of the grid was taken")
    for what, duel in (("runner-up", choice.runner_up), ("plain rule", choice.plain)):
        if duel is not None:
            lines.append(
                f"against the {what} {duel.other}: better on {duel.better} questions, worse on {duel.worse}, "
                f"p {p_value(duel.p)}, {p_value(duel.p_adjusted)} for the best of {choice.candidates}"
            )
    return lines


def _text(settings: Settings) -> str:
    return " ".join(f"{name}={value}" for name, value in settings)
