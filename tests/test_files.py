import errno
import io
import os
import resource

import pytest

from densedistill import UserError
from densedistill.files import (
    atomic_write,
    remove_parts,
    require_writable,
    to_json,
    write_buffer,
    write_bytes,
    write_text,
)


def test_a_file_is_written_whole_into_folders_that_are_made(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "größer")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "größer"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_a_buffer_is_written_from_its_beginning_and_a_full_disk_leaves_the_older_file(tmp_path):
    buffer = io.BytesIO(b"old")
    buffer.seek(2)
    write_buffer(tmp_path / "file", buffer)
    assert (tmp_path / "file").read_bytes() == b"old"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*file: File too large"):
            write_buffer(tmp_path / "file", io.BytesIO(bytes(100_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_of_a_name_in_another_encoding_text_says_what_it_can(tmp_path):
    write_text(tmp_path / "page.html", "größe caf\udce9")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "größe caf\\udce9"


def test_the_temporary_path_lies_beside_and_keeps_the_suffix(tmp_path):
    with atomic_write(tmp_path / "map.pfm") as part:
        assert part.parent == tmp_path
        assert part.suffix == ".pfm"
        assert part != tmp_path / "map.pfm"
        part.write_bytes(b"x")


def fail_while_writing(path, error):
    with atomic_write(path) as part:
        part.write_bytes(b"half")
        raise error


def test_a_folder_above_that_cannot_be_made_has_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*taken/deep/deeper/x: Not a directory"):
        write_text(tmp_path / "taken" / "deep" / "deeper" / "x", "text")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_what_was_there_stays_when_writing_is_interrupted(tmp_path, error):
    write_bytes(tmp_path / "weights", b"old")
    with pytest.raises(error):
        fail_while_writing(tmp_path / "weights", error)
    assert (tmp_path / "weights").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights"]


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path):
    write_bytes(tmp_path / "weights", b"old")
    with pytest.raises(UserError, match=r"cannot write .*weights: No space left on device"):
        fail_while_writing(tmp_path / "weights", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert (tmp_path / "weights").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights"]


def test_a_device_that_is_really_full_is_one_line(tmp_path):
    def write_to_full_device():
        with atomic_write(tmp_path / "a") as part:
            part.symlink_to("/dev/full")  # takes every open and refuses every byte
            part.write_bytes(b"x" * 10000)

    with pytest.raises(UserError, match=r"cannot write .*a: No space"):
        write_to_full_device()
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_file_is_one_line(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*out"):
        write_bytes(tmp_path / "out", b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot write .*inside"):
        write_bytes(tmp_path / "file" / "inside", b"x")


def test_an_error_about_another_file_is_not_taken_for_a_failed_write(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        open(tmp_path / "not there")  # noqa: SIM115


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "a").mkdir()
    with atomic_write(tmp_path / "a" / "x.json") as part:
        part.write_text("")
        left = part.name
    kept = [tmp_path / "a" / name for name in ("x.json", ".lock", ".hidden.tar-old", "y.12-0123abcd.json")]
    for path in (*kept, tmp_path / "a" / left):
        path.write_text("")
    remove_parts(tmp_path)
    assert sorted((tmp_path / "a").iterdir()) == sorted(kept)


def test_json_has_no_words_that_strict_parsers_refuse():
    values = {"a": [1.5, float("nan")], "b": (float("inf"), {"c": -float("inf")}), "d": "NaN", "e": True}
    assert to_json(values) == '{"a": [1.5, null], "b": [null, {"c": null}], "d": "NaN", "e": true}'


def test_what_cannot_be_written_is_told_before_the_work_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("there")
    require_writable(None, tmp_path / "file", tmp_path / "new" / "deep" / "a.json")
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "file" / "a.json", "Not a directory")):
        with pytest.raises(UserError, match=rf"cannot write {path}: {why}"):
            require_writable(path)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "there"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that refuses")
def test_a_folder_that_takes_no_file_is_told_before_the_work():
    with pytest.raises(UserError, match=r"cannot write /proc/a\.json: "):
        require_writable("/proc/a.json")


def test_a_full_disk_is_not_writable(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # files may be made, not grow
    try:
        with pytest.raises(UserError, match=r"cannot write .*figures: File too large"):
            require_writable(tmp_path / "figures")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
