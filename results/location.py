"""Where an experiment is: a folder, or a bucket whose working copy stands in for one while a command runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from results.bucket import SCHEMES, Bucket, BucketLockFile
from results.disk import StoreError, check_place
from results.experiment import Experiment
from results.lock import FolderLockFile, LockFile, driver_line, held
from results.repeating import repeated
from workers.foreign import expanded

SEND_S = 5.0  # between two looks for new files while a sweep runs
FETCH_S = 10.0  # between two looks for new cells while somebody watches


@contextmanager
def located(place: Path, *, exists: bool = False, everything: bool = False) -> Iterator[Path]:
    """The folder of an experiment for one command; what changes in it is sent back to its bucket.

    Args:
        place: A path, a ``file://`` URI, or the URI of a place in a bucket.
        exists: It is read, so there must be something.
        everything: Fetch Ray Tune's trials and exported tables too, not only what all commands read.

    Raises:
        StoreError: The URI is of another kind, or its bucket cannot be reached, read or written.
    """
    bucket = bucket_at(place)
    if bucket is None:
        yield local_folder(place)
        return
    bucket.fetch(exists=exists, everything=everything)
    yield bucket.folder
    bucket.send()


@contextmanager
def opened(place: Path, *, everything: bool = False) -> Iterator[Experiment]:
    """An experiment that is there, for one command; see `located`.

    Raises:
        StoreError: As for `located`; or it is not an experiment.
    """
    with located(place, exists=True, everything=everything) as folder:
        yield Experiment.open(folder)


@contextmanager
def written(
    place: Path, tell: Callable[[str], None], *, exists: bool = False, everything: bool = False
) -> Iterator[Path]:
    """As `located`, for a command that changes what others read: nobody else writes there meanwhile.

    Args:
        place, exists, everything: As for `located`.
        tell: Takes a line where this has to wait.

    Raises:
        StoreError: As for `located` and `lock.held`.
    """
    if exists and bucket_at(place) is None and not local_folder(place).is_dir():
        yield local_folder(place)  # nothing to hold; who opens it says so
        return
    with held(_board(place), tell), located(place, exists=exists, everything=everything) as folder:
        yield folder


def driver_of(place: Path) -> str | None:
    """Who writes into an experiment now, as a line; None where nobody does.

    Raises:
        StoreError: As for `located`.
    """
    return driver_line(_board(place))


@contextmanager
def followed(place: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    """The folder of an experiment that is being computed; its bucket gets every file within seconds.

    Nobody else writes there meanwhile.

    Args:
        place: As for `located`.
        tell: Takes a line about the bucket.

    Raises:
        StoreError: As for `located` and `lock.held`; and what could not be sent in the end, which stays in the working
            copy.
    """
    bucket = bucket_at(place)
    if bucket is not None:
        bucket.check_writable()
    with held(_board(place), tell):
        if bucket is None:
            yield local_folder(place)
        else:
            with _mirrored(bucket, tell):
                yield bucket.folder


@contextmanager
def _mirrored(bucket: Bucket, tell: Callable[[str], None]) -> Iterator[None]:
    """Send what is written into a working copy, now and then and in the end."""
    bucket.fetch(everything=True)
    tell(f"working copy: {bucket.folder}")
    failing = False

    def send() -> None:
        nonlocal failing
        try:
            bucket.send(everything=False)
            failing = False
        except StoreError as error:  # tried again; said once, though each try may name another file
            if not failing:
                tell(str(error))
            failing = True

    try:
        with repeated(send, SEND_S, "bucket"):
            yield
    except BaseException:
        try:
            bucket.send()
        except StoreError as error:  # the first error is the one to be seen
            tell(str(error))
        raise
    bucket.send()
    tell(f"all of it is in {bucket.uri}")


@contextmanager
def watched(places: Iterable[Path]) -> Iterator[list[Path]]:
    """Folders of experiments that somebody looks at while they grow elsewhere; nothing is sent.

    Raises:
        StoreError: As for `located`.
    """
    buckets = [(place, bucket_at(place)) for place in places]
    for _, bucket in buckets:
        if bucket is not None:
            bucket.fetch(exists=True)
    remote = [bucket for _, bucket in buckets if bucket is not None]

    def fetch() -> None:
        for bucket in remote:
            with suppress(StoreError):  # what is there can be looked at all the same
                bucket.fetch()

    folders = [local_folder(place) if bucket is None else bucket.folder for place, bucket in buckets]
    if not remote:
        yield folders
        return
    with repeated(fetch, FETCH_S, "bucket"):
        yield folders


def local_folder(place: Path) -> Path:
    """The folder that a path, with or without ``~``, or a ``file://`` URI names.

    Raises:
        StoreError: A URI of another kind; or the system lets nobody, or not this user, look there.
    """
    uri = uri_of(place)
    if uri is None:
        place = expanded(place)
        check_place(place)
        return place
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return local_folder(Path("/" + unquote(rest).lstrip("/")))
    known = ", ".join(f"{name}://" for name in SCHEMES)
    raise StoreError(f"{uri}: {scheme}:// is not known; give a path, or a URI that begins with file://, {known}")


def bucket_at(place: Path) -> Bucket | None:
    """Of a URI; None where a place is a folder."""
    uri = uri_of(place)
    return Bucket(uri) if uri and uri.partition("://")[0] in SCHEMES else None


def _board(place: Path) -> LockFile:
    bucket = bucket_at(place)
    return FolderLockFile(local_folder(place)) if bucket is None else BucketLockFile(bucket)


def uri_of(place: Path) -> str | None:
    """The URI that came as a path, which has lost a slash; None for a path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+", str(place))
    return f"{match[1].lower()}://{str(place)[match.end() :]}" if match else None
