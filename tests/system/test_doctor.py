"""`collector doctor` as a process: on a healthy machine, with a bad configuration, next to a running collector."""

from pathlib import Path

from tests.system.process import configure, run, serving


def test_doctor_measures_and_leaves_no_files(tmp_path: Path) -> None:
    configure(tmp_path)
    done = run("doctor", folder=tmp_path)
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    assert "nothing would keep the collector from serving" in done.stdout
    assert "commits it in" in " ".join(done.stdout.split())
    assert "days at 100 events a second" in " ".join(done.stdout.split())
    assert ["collector.toml"] == [path.name for path in tmp_path.iterdir()]


def test_doctor_reports_every_error_of_an_invalid_configuration(tmp_path: Path) -> None:
    configure(tmp_path, server={"prot": 1}, storage={"durability": "maybe"})
    done = run("doctor", "--config", "collector.toml", folder=tmp_path)
    assert (2, 2, "") == (done.returncode, len(done.stderr.splitlines()), done.stdout)


def test_doctor_exits_1_if_a_collector_could_not_serve(tmp_path: Path) -> None:
    """It reports all problems at once."""
    (tmp_path / "plain").touch()
    configure(tmp_path, admin={"host": "192.0.2.1"}, storage={"data_dir": tmp_path / "plain"})
    done = run("doctor", folder=tmp_path)
    assert (1, "") == (done.returncode, done.stderr)
    assert "is not a folder" in " ".join(done.stdout.split())
    assert "cannot listen on 192.0.2.1:0: Cannot assign requested address" in " ".join(done.stdout.split())
    assert " would keep the collector from serving" in done.stdout


def test_doctor_does_not_disturb_a_collector_that_serves(tmp_path: Path) -> None:
    with serving(tmp_path, storage={"flush_interval_s": 0.2}) as process:
        assert 201 == process.post().status
        process.published()
        ports = [int(url.rpartition(":")[2]) for url in (process.url, process.admin)]
        configure(tmp_path, server={"port": ports[0]}, admin={"port": ports[1]})
        done = run("doctor", folder=tmp_path)
        report = " ".join(done.stdout.split())
        assert (0, "") == (done.returncode, done.stderr), done.stdout
        assert f"(process {process.popen.pid}) is using data_dir" in report
        assert 2 == report.count("is in use, and a collector is running")
        assert 201 == process.post().status
        process.published()
        assert [] == list((process.data_dir / "staging").glob("doctor-*"))
        assert 0 == process.stop()
    assert 2 == len(process.rows())
    assert [] == [line for line in process.log().splitlines() if " INFO " not in line]


def test_invalid_rate_exits_2(tmp_path: Path) -> None:
    configure(tmp_path)
    for rate in ("0", "nan", "-1", "much"):
        assert 2 == run("doctor", "--rate", rate, folder=tmp_path).returncode
