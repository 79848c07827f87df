"""What only S3 has: keys that end in a slash, and the credentials of AWS's own tools.

A client such as pip asks a bucket for ``nightly/cu130/vllm/``, and what it gets is the object of exactly that key.
``obstore`` drops a slash at the end, so these keys, and lists that show them, go through ``boto3``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from vllm_builder.errors import SettingsError, StorageFailed
from vllm_builder.index.storage.base import Blob, Changed, Stat, Token
from vllm_builder.index.storage.failures import failure
from vllm_builder.index.storage.objects import CLIENT, RETRY, Objects, checked_key, token_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_REFUSED: Final = frozenset({409, 412})
"""409: another conditional put of the key was under way (ConditionalRequestConflict)."""


class S3(Objects):
    """See :class:`vllm_builder.index.storage.base.Storage`."""

    slash_keys = True

    def __init__(
        self, store: Any, url: str, client: Any, bucket: str, prefix: str, secrets: tuple[str, ...]
    ) -> None:
        super().__init__(store, url, secrets)
        self._s3 = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def read(self, key: str, *, limit: int | None = None) -> Blob | None:
        if not key.endswith("/"):
            return super().read(key, limit=limit)
        wanted = {"Range": f"bytes=0-{limit - 1}"} if limit else {}
        try:
            return self._read_slash(key, wanted)
        except StorageFailed as error:
            if wanted and " 416 " in error.why:
                return self._read_slash(key, {})
            raise

    def _read_slash(self, key: str, wanted: dict[str, str]) -> Blob | None:
        with self._s3_errors(f"reading {key}", missing=None):
            found = self._s3.get_object(**self._at(key), **wanted)
            return Blob(found["Body"].read(), token_of({"e_tag": found["ETag"]}))
        return None

    def stat(self, key: str) -> Stat | None:
        if not key.endswith("/"):
            return super().stat(key)
        with self._s3_errors(f"looking at {key}", missing=None):
            found = self._s3.head_object(**self._at(key))
            return Stat(key, found["ContentLength"], found["LastModified"].timestamp())
        return None

    def content_type(self, key: str) -> str | None:
        if not key.endswith("/"):
            return super().content_type(key)
        with self._s3_errors(f"looking at {key}", missing=None):
            return str(self._s3.head_object(**self._at(key)).get("ContentType", ""))
        return None

    def chunks(self, key: str) -> Iterator[bytes]:
        if not key.endswith("/"):
            yield from super().chunks(key)
            return
        found = self.read(key)
        if found is None:
            raise KeyError(key)
        yield found.data

    def delete(self, keys: Iterable[str]) -> None:
        plain = []
        for key in keys:
            if key.endswith("/"):
                with self._s3_errors(f"deleting {key}"):
                    self._s3.delete_object(**self._at(key))
            else:
                plain.append(key)
        super().delete(plain)

    def list(self, prefix: str) -> Iterator[Stat]:
        pages = self._s3.get_paginator("list_objects_v2")
        with self._s3_errors(f"listing {prefix or 'everything'}"):
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for one in page.get("Contents", ()):
                    key = one["Key"][len(self._prefix) :]
                    if key:
                        yield Stat(key, one["Size"], one["LastModified"].timestamp())

    def _put(self, key: str, data: bytes, mode: Any, content_type: str, cache_control: str) -> Token:
        if not key.endswith("/"):
            return super()._put(key, data, mode, content_type, cache_control)
        condition = {"IfNoneMatch": "*"} if mode == "create" else {"IfMatch": mode["e_tag"]}
        with self._s3_errors(f"writing {key}", missing=Changed(key) if mode != "create" else ...):
            found = self._s3.put_object(
                **self._at(key), Body=data, ContentType=content_type, CacheControl=cache_control, **condition
            )
            return token_of({"e_tag": found["ETag"]})
        raise Changed(key)

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + checked_key(key)}

    @contextmanager
    def _s3_errors(self, doing: str, *, missing: Any = ...) -> Iterator[None]:
        """Args:
        missing: what to do where the key is not there: an exception to raise, None to go on behind the block.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            gone = status == 404 and error.response.get("Error", {}).get("Code") != "NoSuchBucket"
            if gone and missing is None:
                return
            if gone and isinstance(missing, Exception):
                raise missing from None
            if status in _REFUSED and doing.startswith("writing"):
                raise Changed(doing) from None
            raise failure(error, doing, self.url, self._secrets) from error
        except (BotoCoreError, OSError) as error:
            raise failure(error, doing, self.url, self._secrets) from error


def open_s3(
    bucket: str, prefix: str, url: str, *, client: ClientConfig = CLIENT, retry: RetryConfig = RETRY
) -> S3:
    """Open a bucket with the credentials, the region and the endpoint that AWS's own tools would take.

    Raises:
        SettingsError: there are no credentials, or the endpoint is not encrypted.
        StorageFailed: the configuration of AWS's tools cannot be read.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    try:
        session = boto3.Session()
        credentials = session.get_credentials()
        aws = session.client(
            "s3",
            region_name=session.region_name or "us-east-1",
            config=Config(
                retries={"mode": "standard", "max_attempts": retry["max_retries"] + 1},
                connect_timeout=10,
                read_timeout=60,
                # As obstore does; stores other than Amazon's rarely have a host name for each bucket.
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise StorageFailed(
            f"{url} cannot be opened.",
            why=str(error).splitlines()[0],
            next="Look at AWS_PROFILE, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE.",
        ) from error
    if credentials is None:
        raise SettingsError(
            f"There are no credentials for {url}.",
            next="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in as for the aws command.",
        )
    endpoint = str(aws.meta.endpoint_url)
    options: dict[str, Any] = {}
    if not (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
        options = {"endpoint": endpoint, "virtual_hosted_style_request": False}
    store = S3Store(
        bucket,
        prefix=prefix or None,
        region=aws.meta.region_name,
        credential_provider=Boto3CredentialProvider(session),
        client_options={**client, "allow_http": _http_allowed(endpoint)},
        retry_config=retry,
        **options,
    )
    frozen = credentials.get_frozen_credentials()
    secrets = tuple(filter(None, (frozen.secret_key, frozen.token)))
    return S3(store, url, aws, bucket, prefix, secrets)


def _http_allowed(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    if parts.scheme != "http":
        return False
    if parts.hostname in _LOOPBACK or os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true", "yes"}:
        return True
    raise SettingsError(
        f"The endpoint {parts.scheme}://{parts.hostname} is not encrypted.",
        why="Credentials and wheels could be read and changed on the way.",
        next="Use its https address, or set AWS_ALLOW_HTTP=true where that network is trusted.",
    )
