"""From URIs and options to stores; and which object paths a table may hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.store import Store, check_path, forget_memory, open_store
from lake_format.store.local import LocalStore
from lake_format.store.options import parse_options
from lake_format.store.paths import check_store_path


def test_local_paths_and_file_uris_are_the_same_place(tmp_path: Path) -> None:
    open_store(tmp_path / "a b").create("x", b"x")
    for uri in (
        f"{tmp_path}/a b",
        f"{tmp_path}/a b/",
        f"file://{tmp_path}/a%20b",
        f"file://localhost{tmp_path}/a b",
    ):
        store = open_store(uri)
        assert isinstance(store, LocalStore)
        assert store.get("x") == b"x"
        assert store.uri == uri


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("lake")
    monkeypatch.chdir("/")
    store.create("x", b"x")
    assert (tmp_path / "lake" / "x").exists()


def test_a_memory_store_is_shared_by_its_name() -> None:
    open_store("memory://shared/t").create("x", b"x")
    assert open_store("memory://shared/t/").get("x") == b"x"
    assert [info.path for info in open_store("memory://shared").list("")] == ["t/x"]
    assert list(open_store("memory://other").list("")) == []
    forget_memory("memory://shared/t")
    assert list(open_store("memory://shared").list("")) == []


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/t",
        "s3a://b/t",
        "S3://b/t",
        "gs://b/t",
        "gcs://b/t",
        "http://h:80/t",
        "https://h/t",
        "s3://b",
        "s3://b/",
    ],
)
def test_remote_uris_open_without_a_request(uri: str) -> None:
    store = open_store(uri, {"skip_signature": True} if uri[0] in "sSg" else None)
    assert isinstance(store, Store)
    assert store.uri == uri.rstrip("/").replace("S3:", "s3:")


def test_azure_uris_open_without_a_request() -> None:
    assert open_store("az://c/t", {"account_name": "acc", "skip_signature": True}).uri == "az://c/t"
    assert open_store("abfss://c@acc.dfs.core.windows.net/t", {"skip_signature": True}).uri == "abfss://c/t"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "empty"),
        ("a\x00b", "empty or not text"),
        ("ftp://host/t", "unknown URI scheme 'ftp' — known are a local path and abfs"),
        ("s3://", "malformed"),
        ("s3:///t", "malformed"),
        ("s3://b/../t", "malformed"),
        ("s3://b//t", "malformed"),
        ("s3://b/.t", "malformed"),
        ("memory://", "malformed"),
        ("s3://b/t?versionId=1", "must not hold a query"),
        ("file://host/t", "absolute path"),
    ],
)
def test_bad_uris_are_refused(uri: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        open_store(uri)


@pytest.mark.parametrize(
    "uri", ["s3://key:hunter2@bucket/t", "https://me:hunter2@host/t", "az://hunter2@c/t"]
)
def test_credentials_in_a_uri_are_refused_without_being_shown(uri: str) -> None:
    """# spec: STO-25."""
    with pytest.raises(InvalidInputError, match="must not hold credentials") as caught:
        open_store(uri)
    assert "hunter2" not in repr(caught.value)


def test_options_are_known_by_their_usual_names() -> None:
    names = {
        "AWS_ENDPOINT_URL": "http://h",
        "aws_access_key_id": "A",
        "SECRET_ACCESS_KEY": "B",
        "default_region": "r",
        "anon": False,
        "timeout": 2.5,
        "allow_http": "TRUE",
        "max_retries": "3",
    }
    options = parse_options("s3", names)
    assert options.store == {
        "endpoint": "http://h",
        "access_key_id": "A",
        "secret_access_key": "B",
        "region": "r",
        "skip_signature": "false",
    }
    assert options.client == {"timeout": "2500ms", "allow_http": True}
    assert options.max_retries == 3
    assert set(options.secrets) == {"A", "B"}
    assert parse_options("az", {"azure_storage_account_key": "k"}).store == {"account_key": "k"}
    assert parse_options("gs", {"GOOGLE_SERVICE_ACCOUNT": "f"}).store == {"service_account": "f"}


@pytest.mark.parametrize(
    ("uri", "options", "words"),
    [
        ("s3://b/t", {"regoin": "x"}, "unknown storage option 'regoin' — did you mean 'region'"),
        ("s3://b/t", {"zzz": "x"}, "unknown storage option 'zzz' — s3 stores take access_key_id, allow_http"),
        ("s3://b/t", {"endpoint": "x", "AWS_ENDPOINT": "y"}, "'endpoint' is given twice"),
        ("s3://b/t", {"allow_http": "maybe"}, "'allow_http' must be true or false"),
        ("s3://b/t", {"max_retries": "many"}, "'max_retries' must be a number"),
        ("s3://b/t", {"region": None}, "'region' must be text"),
        ("s3://b/t", {"timeout": "soon"}, "cannot open s3://b/t"),
        ("memory://m", {"region": "x"}, "unknown storage option 'region' — memory stores take none"),
        ("relative/path", {"endpoint": "x"}, "unknown storage option 'endpoint'"),
        ("relative/path", {"sync": "perhaps"}, "'sync' must be true or false"),
    ],
)
def test_bad_options_are_refused_by_name(uri: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        open_store(uri, options)


def test_local_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: pytest.fail("synced"))
    open_store(str(tmp_path), {"sync": "false"}).create("x", b"")
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert open_store(str(tmp_path), {"follow_symlinks": True}).size("link") > 0


def test_importing_the_store_layer_does_not_import_obstore() -> None:
    code = "import sys, lake_format.store, lake_format.store.local; sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the path grammar ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["a", "data/0-a.vortex", "p=1/x_y-z.parquet", "_versions/00", "a..b", "=", "-"]
)
def test_paths_of_the_format(path: str) -> None:
    """# spec: STO-1, STO-2."""
    assert check_path(path) == path
    assert check_store_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "../a",
        ".a",
        "a/.b",
        "a b",
        "a%20b",
        "é",
        "a\\b",
        "a\n",
        "a\x00",
        "~",
        "C:",
    ],
)
def test_paths_that_metadata_must_not_hold(path: str) -> None:
    """# spec: STO-1, STO-2, STO-8."""
    with pytest.raises(CorruptionError, match="not allowed in a table"):
        check_path(path)


def test_path_lengths() -> None:
    """# spec: STO-3."""
    part = "p" * 200
    longest = "/".join([part] * 4 + ["q" * 96])
    assert len(longest) == 900
    assert check_path(longest) == check_store_path(longest) == longest
    for path in (longest + "q", part + "p", "a/" + part + "p"):
        with pytest.raises(CorruptionError):
            check_path(path)
        with pytest.raises(InvalidInputError):
            check_store_path(path)
    with pytest.raises(CorruptionError):
        check_path(7)  # type: ignore[arg-type]


@given(st.text(max_size=30))
def test_every_path_of_the_format_is_one_of_the_store(path: str) -> None:
    """# spec: STO-1, STO-5."""
    try:
        check_path(path)
    except CorruptionError:
        return
    assert check_store_path(path) == path


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b/c", "\\", "\x00"]), max_size=6).map("/".join))
def test_an_accepted_path_never_leaves_the_root(path: str) -> None:
    """# spec: STO-5."""
    try:
        check_store_path(path)
    except InvalidInputError:
        return
    assert (Path("/root") / path).resolve().is_relative_to("/root")
    assert "\\" not in path
