"""Object stores that speak the S3 protocol; minio's client signs the requests.

Key, secret, token, profile, region and endpoint come from where the AWS tools take them: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, the files
of ~/.aws, and on machines that have one their role. None of them is part of a configuration.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import minio
import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
)
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from stego_dist.config import StorageConfig
from stego_dist.data.storage.base import PerProcess
from stego_dist.data.storage.remote import RemoteStorage
from stego_dist.data.storage.retry import retry
from stego_dist.data.storage.web import asking, connections
from stego_dist.errors import ConfigError, UserError

T = TypeVar("T")
PART_BYTES = 64 * 2**20
"""Uploads above it go in parts; the object still appears whole."""
AMAZON = "https://s3.amazonaws.com"
_SIGN_IN = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of ~/.aws/credentials "
    "(and AWS_ENDPOINT_URL for a store that is not Amazon's)"
)


class S3Storage(RemoteStorage):
    """The objects of a bucket under a prefix."""

    advice = f"; check the keys and what they allow: {_SIGN_IN}"

    def __init__(self, url: str, settings: StorageConfig) -> None:
        super().__init__(url, settings)
        parts = urlsplit(url)
        self.bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._client = PerProcess(partial(_connect, settings.timeout_s))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _get(self, name: str, offset: int, end: int | None) -> BaseHTTPResponse:
        length = 0 if end is None else end - offset
        return self._client().get_object(self.bucket, self._key(name), offset, length)

    def _do(self, name: str, act: Callable[[minio.Minio], T]) -> T:
        """`act` with the client, tried again where that helps."""
        where = self.where(name)
        return retry(where, self.settings.tries, lambda: asking(where, lambda: act(self._client()), self.advice))

    def _do_in_bucket(self, name: str, act: Callable[[minio.Minio], T]) -> T:
        try:
            return self._do(name, act)
        except FileNotFoundError:
            raise UserError(f"s3://{self.bucket}: there is no such bucket; make it, or name another one") from None

    def size(self, name: str) -> int | None:
        """Bytes of an object; None when there is none."""
        try:
            return self._do(name, lambda client: client.stat_object(self.bucket, self._key(name)).size)
        except FileNotFoundError:
            return None

    def list(self, folder: str) -> list[str]:
        """Names of the objects directly under `folder`, sorted."""
        start = self._key(f"{folder}/" if folder else "")

        def names(client: minio.Minio) -> list[str]:
            found = client.list_objects(self.bucket, prefix=start)
            return sorted(str(entry.object_name) for entry in found if not entry.is_dir)

        skip = len(self._key(""))
        return [name[skip:] for name in self._do_in_bucket(folder, names)]

    def put(self, file: Path, name: str) -> None:
        """Upload a file; objects appear whole or not at all."""

        def upload(client: minio.Minio) -> None:
            with file.open("rb") as stream:
                client.put_object(self.bucket, self._key(name), stream, file.stat().st_size, part_size=PART_BYTES)

        self._do_in_bucket(name, upload)

    def remove(self, name: str) -> None:
        """Delete an object; one that is not there is as good."""
        self._do_in_bucket(name, lambda client: client.remove_object(self.bucket, self._key(name)))


def _connect(timeout: float) -> minio.Minio:
    """A client of this process. Raises ConfigError for an endpoint that is none."""
    settings = _profile_settings()
    endpoint = (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or settings.get("endpoint_url")
        or AMAZON
    )
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise ConfigError(f"AWS_ENDPOINT_URL is {endpoint!r}, expected http(s)://host or http(s)://host:port")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or settings.get("region")
    if region is None and endpoint != AMAZON:
        region = "us-east-1"  # what stores without regions call themselves; Amazon's is asked for the bucket's
    return minio.Minio(
        parts.netloc,
        secure=parts.scheme == "https",
        region=region,
        credentials=_Credentials(),
        http_client=connections(endpoint, timeout, redirects=0),
    )


def _profile_settings() -> dict[str, str]:
    """What the file of the AWS tools says of the profile in use."""
    path = os.environ.get("AWS_CONFIG_FILE") or Path.home() / ".aws" / "config"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, "utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    profile = os.environ.get("AWS_PROFILE", "default")
    sections = [name for name in (f"profile {profile}", profile) if parser.has_section(name)]
    return dict(parser[sections[0]]) if sections else {}


class _Credentials(ChainedProvider):
    """Environment, ~/.aws/credentials, the role of the machine; where there is none the user is told."""

    def __init__(self) -> None:
        chain: list[Provider] = [EnvAWSProvider(), AWSConfigProvider()]
        if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
            retries = urllib3.Retry(2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504])
            near = urllib3.PoolManager(timeout=urllib3.Timeout(connect=1, read=5), retries=retries)
            chain.append(IamAwsProvider(http_client=near))
        super().__init__(chain)

    def retrieve(self) -> Credentials:
        """The keys; temporary ones are renewed."""
        try:
            return super().retrieve()
        except (ValueError, HTTPError, configparser.Error):
            raise ConfigError(f"no keys for s3:// were found: {_SIGN_IN}") from None
