"""What follows from a target is said by the task alone: the words of classification stand where classes are needed."""

from __future__ import annotations

import re
from pathlib import Path

import thawline

SOURCE = Path(thawline.__file__).parent
PLACES = (
    "reports", "ledger", "sweeps", "cli", "planning", "execution", "training", "trackers", "store", "thaw_line",
    "network",
)  # fmt: skip
WORD = re.compile(r"(?<![\w.-])(class|classes|labels?|argmax|top_?1|top-1|logits?)(?![\w])", re.IGNORECASE)
# The word of Python, of HTML and of a figure's legend, and the name by which a row, a run or a source is shown.
OF_PYTHON = re.compile(r"^\s*class \w+|\bclass=\"|set_\w*label\w*|own classes|names? classes|\.label\b", re.IGNORECASE)
SHOWN = {"label", "labels"}
SHOWN_IN = ("reports", "sweeps", "cli", "planning/plan.py", "execution/distributed.py", "execution/rank.py")
NEEDS_CLASSES = {
    "cli/rank_sources.py": "transferability scores are of classes",
    "execution/packing.py": "packed probes are linear classifiers under cross-entropy",
    "execution/probing.py": "the L-BFGS path solves logistic regression",
    "execution/regularizing.py": "Co-Tuning and distillation ask for labels",
    "execution/source_scores.py": "transferability scores are of classes",
    "network/network.py": "the classifier of a source",
    "planning/shift.py": "OtherDataset maps classes of one set to another's",
    "reports/contested.py": "what each setting takes an image for",
    "reports/findings.py": "McNemar's test counts right and wrong",
    "reports/page/confusions.py": "matrices of classes",
    "reports/per_class.py": "the section on single classes",
    "sweeps/source_ranking.py": "transferability scores are of classes",
    "training/probes.py": "packed probes and the L-BFGS path",
}
OTHERWISE = {
    ("cli/explain.py", "class"): "a class of Python, which takes the fields",
    ("cli/explain.py", "classes"): "classes of Python",
    ("cli/predict.py", "classes"): "a field of the record",
    ("cli/sync.py", "class"): "a class of Python",
    ("execution/finish.py", "classes"): "a field of the record",
    ("execution/weights.py", "classes"): "the names that travel with the weights",
    ("ledger/verification.py", "classes"): "a field of the record",
    ("planning/plan.py", "class"): "the data's identity",
    ("planning/plan.py", "classes"): "the data's identity, and the classifier of a source",
    ("planning/settings.py", "class"): "a class of Python; the smoothing of labels, which tasks may read",
    ("planning/settings.py", "classes"): "the top-k accuracy, which tasks may read",
    ("planning/settings.py", "top1"): "a name that no regularizer may have",
    ("planning/statements.py", "class"): "a class of Python",
    ("planning/task_fit.py", "classes"): "transferability scores are of classes",
    ("reports/axes.py", "classes"): "a field of data sets",
    ("reports/escaping.py", "class"): "whatever a name from outside is of",
    ("sweeps/remote.py", "classes"): "classes of Python",
    ("thaw_line/digests.py", "class"): "a module's class",
    ("thaw_line/kept_whole.py", "classes"): "classes of Python",
    ("training/sharding.py", "class"): "a class of Python",
}


def _found():
    for place in PLACES:
        path = SOURCE / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(SOURCE).as_posix()
            for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                for match in WORD.finditer(OF_PYTHON.sub("", text)):
                    yield name, match[1].lower(), f"{name}:{line}: {text.strip()}"


def test_the_words_of_classification_stand_where_classes_are_needed():
    used, wrong = set(), []
    for name, word, said in _found():
        if name in NEEDS_CLASSES:
            used.add(name)
        elif (name, word) in OTHERWISE:
            used.add((name, word))
        elif not (word in SHOWN and name.startswith(SHOWN_IN)):
            wrong.append(said)
    assert not wrong, "\n".join(wrong)
    assert not [entry for entry in (*NEEDS_CLASSES, *OTHERWISE) if entry not in used], "no longer needed"
