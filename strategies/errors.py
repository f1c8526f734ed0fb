"""What people can mend: one tree of errors, so that a command or a caller catches one class.

    SaccadeError                        strategies/errors.py
        UsageError                      strategies/errors.py             an argument or option does not fit
            UnknownStrategy             strategies/catalog.py
            RuleError                   strategies/own.py                a rule of a user's own cannot be used
        SpecError                       orchestrator/sweep/mistakes.py   a sweep file is wrong
        ModelError                      workers/families/config.py       a checkpoint cannot be used
        DataError                       workers/tasks/base.py            a benchmark's files cannot be used
            TaskError                   workers/tasks/own.py             a benchmark of a user's own cannot be used
        StoreError                      results/disk.py                  an experiment cannot be read or written
            DamagedDescriptionError     results/description.py
            UnknownKindError            results/exchange/imports.py
        PoolError                       orchestrator/cluster/joining.py  no workers to run on
        SweepError                      orchestrator/cluster/faults.py   a run cannot go on
        UnreadableError                 workers/json_file.py             these lack place or remedy: who calls adds it
        OutsideError                    workers/foreign.py
        DamagedError                    results/seals.py
        YamlError                       results/yaml_text.py
        NoSpectrumError                 workers/spectra.py

A message is one line - place, what is wrong, remedy - whatever the text of files and users that it quotes; only a
`SpecError` has a line for each mistake. A command prints it and ends with exit code 2. Any other error is a bug of ours
and shows a traceback.

Not in the tree: a strategy's plain ValueError, which `Strategy.check` or the engine turns into one of these, and
`ImportPathError`, which is raised before any of our packages may be imported. Nothing but Python is needed here.
"""

from __future__ import annotations

import re

# Control characters, what else ends a line, and halves of surrogate pairs, which no output can hold.
UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LONGEST = 1000  # characters; a quotation may be of any length


class SaccadeError(ValueError):
    """A message for people: one line, or one for each mistake, with unshowable characters written out; exit code 2."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(one_line, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class UsageError(SaccadeError):
    """An argument of a call, or an option of a command, is unknown or does not fit the rest."""


def one_line(text: str) -> str:
    r"""Text with its unshowable characters written out (``\n``), and its middle left out where it is very long."""
    shown = UNSHOWABLE.sub(lambda sign: ascii(sign[0])[1:-1], text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"
