"""Writes the transcripts and their folds anew."""

from tests.transcripts import ANSWERS, FOLDS, file_of, folded, written

for dialect in FOLDS:
    for name, answer in ANSWERS.items():
        log = written(dialect, answer)
        file_of(dialect, name).parent.mkdir(exist_ok=True)
        file_of(dialect, name).write_bytes(log)
        if fold := folded(dialect, log):
            file_of(dialect, name, "json").write_bytes(fold)
