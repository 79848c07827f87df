"""The server that stands for an object store: a store whose conditional puts race would prove nothing."""

from __future__ import annotations

import socket
import threading

import pytest
from botocore.exceptions import ClientError
from index_helpers import S3Server, in_threads, make_wheel, s3_client

from vllm_builder.index.candidates import read_candidate


def test_of_many_creates_one_succeeds(s3: S3Server) -> None:
    client = s3_client(s3)
    for round_ in range(5):
        won: list[int] = []
        start = threading.Barrier(8)

        def create(number: int, key: str, start: threading.Barrier = start, won: list[int] = won) -> None:
            start.wait()
            try:
                client.put_object(Bucket=s3.bucket, Key=key, Body=b"%d" % number, IfNoneMatch="*")
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 412  # noqa: PT017
            else:
                won.append(number)

        threads = [threading.Thread(target=create, args=(n, f"k{round_}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        found = client.get_object(Bucket=s3.bucket, Key=f"k{round_}")["Body"].read()
        assert found == b"%d" % won[0]


def test_counting_by_compare_and_swap_loses_nothing(s3: S3Server) -> None:
    client = s3_client(s3)
    client.put_object(Bucket=s3.bucket, Key="counter", Body=b"0")

    def count() -> None:
        done = 0
        while done < 10:
            found = client.get_object(Bucket=s3.bucket, Key="counter")
            value = int(found["Body"].read()) + 1
            try:
                client.put_object(Bucket=s3.bucket, Key="counter", Body=b"%d" % value, IfMatch=found["ETag"])
            except ClientError:
                continue
            done += 1

    in_threads(count)
    assert client.get_object(Bucket=s3.bucket, Key="counter")["Body"].read() == b"40"


def test_a_fault_is_answered_and_then_gone(s3: S3Server) -> None:
    client = s3_client(s3)
    s3.fail(403, method="PUT", path="secret", times=1)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object(Bucket=s3.bucket, Key="secret", Body=b"x")
    client.put_object(Bucket=s3.bucket, Key="secret", Body=b"x")


def test_of_an_upload_that_breaks_off_nothing_is_stored(s3: S3Server) -> None:
    with socket.create_connection(("127.0.0.1", int(s3.url.rpartition(":")[2]))) as client:
        client.sendall(
            b"PUT /wheels/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n0123456789"
        )
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000) == b""
    assert "Contents" not in s3_client(s3).list_objects_v2(Bucket=s3.bucket)


def test_a_key_may_end_in_a_slash(s3: S3Server) -> None:
    client = s3_client(s3)
    client.put_object(Bucket=s3.bucket, Key="nightly/cpu/demo/", Body=b"page", ContentType="text/html")
    found = client.get_object(Bucket=s3.bucket, Key="nightly/cpu/demo/")
    assert (found["Body"].read(), found["ContentType"]) == (b"page", "text/html")


def test_the_wheels_are_wheels(tmp_path) -> None:  # type: ignore[no-untyped-def]
    one = read_candidate(make_wheel(tmp_path, "demo-kit", "1.0+cu130", tag="cp38-abi3-linux_x86_64"))
    assert (one.project, one.version, one.variant) == ("demo-kit", "1.0+cu130", "cu130")
    assert one.channels == ("1.0", "release")
