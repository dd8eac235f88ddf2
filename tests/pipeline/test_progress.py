"""Progress on a log file: few lines, right numbers, nothing after an error."""

import pytest

from fusecache import progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("extract") as bar:
        for second in range(31):
            clock.now = float(second)
            bar.update(second * 10, 400, "limited by decode")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "extract: 100 of 400 samples · 10.0 samples/s · 30 s left · limited by decode"
    assert lines[-1] == "extract: 300 of 400 samples · 10.0 samples/s · 10 s left · limited by decode"
    assert len(lines) == 4


def test_what_an_earlier_run_did_does_not_count_as_speed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.Progress("extract") as bar:
        bar.update(300, 400)
        clock.now = 10.0
        bar.update(310, 400)
    assert "1.0 samples/s · 1:30 left" in capsys.readouterr().err


def test_every_stage_has_its_own_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("build", "files") as bar:
        bar.update(0, 10, stage="speech")
        clock.now = 5.0
        bar.update(10, 10, stage="speech")
        bar.update(0, 4, stage="words")
        clock.now = 7.0
        bar.update(4, 4, stage="words")
    assert capsys.readouterr().err == "build, words: 4 of 4 files · 2.0 files/s · took 2 s\n"


def test_an_error_leaves_no_line_that_looks_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with progress.Progress("extract") as bar:
            bar.update(1, 2)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        work()
    assert capsys.readouterr().err == ""
