"""HTTP to a hub. What huggingface_hub would accept or wait for without end becomes an error of one line here."""

import re
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers
from huggingface_hub.utils._http import default_client_factory

from engine.errors import HubError
from engine.log import get_logger

logger = get_logger(__name__)

TIMEOUT = 120  # seconds without a byte before a connection is given up
MAX_WAIT = 120  # longest wait that a hub may ask for, in seconds
RATE_SECONDS, MIN_RATE = 60, 1_000  # a response slower than this many bytes per second is given up after a minute


class RateLimitedStream(httpx2.SyncByteStream):
    """The bytes of a response. Raises HubError if they arrive too slowly to ever end."""

    def __init__(self, stream: httpx2.SyncByteStream, name: str):
        self.stream, self.name = stream, name

    def __iter__(self) -> Iterator[bytes]:
        seconds, received, chunks = 0.0, 0, iter(self.stream)
        while True:
            start = time.monotonic()
            chunk = next(chunks, None)
            if chunk is None:
                return
            seconds, received = seconds + time.monotonic() - start, received + len(chunk)
            yield chunk  # the time that the reader takes is not counted
            if seconds > RATE_SECONDS:
                if received < MIN_RATE * seconds:
                    raise HubError(f"{self.name}: {received:,} bytes in {seconds:.0f} s are too slow; try again later")
                seconds, received = 0.0, 0

    def close(self) -> None:
        """Close the connection."""
        self.stream.close()


def check_response(response: httpx2.Response) -> None:
    """Check a response before its body is read. Raises HubError for a web page and for a long wait."""
    host, path = urlsplit(str(response.url)).netloc.rpartition("@")[2], response.url.path
    wait = response.headers.get("Retry-After", "")
    if wait and not re.fullmatch(r"[0-9]{1,9}", wait):
        del response.headers["Retry-After"]  # huggingface_hub fails at other digits
        wait = ""
    limit = parse_ratelimit_headers(response.headers)
    seconds = int(wait or (limit.reset_in_seconds if limit and not limit.remaining else 0))
    if response.is_error and seconds:
        if seconds > MAX_WAIT:
            raise HubError(f"{host}: asks to wait {seconds:,} s; try again later ({response.status_code})")
        logger.info(f"  {host}: asks to wait {seconds} s ({response.status_code})")
    is_page = response.headers.get("Content-Type", "").startswith("text/html")
    if response.is_success and is_page and not path.lower().endswith((".html", ".htm")):
        raise HubError(f"{host}: answered with a web page; is this network behind a login page?")
    response.stream = RateLimitedStream(response.stream, f"{host}{path}")


def make_client() -> httpx2.Client:
    """Return huggingface_hub's HTTP client with a timeout, without which it waits forever, and with the checks."""
    client = default_client_factory()
    client.timeout = TIMEOUT
    client.event_hooks = {**client.event_hooks, "response": [check_response]}
    return client


def use_checked_client() -> None:
    """Make huggingface_hub, and datasets with it, use `make_client` in this process."""
    set_client_factory(make_client)


def is_unreachable(error: BaseException | None) -> bool:
    """Return whether a request failed because a hub cannot be reached or does not work, not because it refused."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(error, httpx2.TransportError | OfflineModeIsEnabled | HubError):
            return True
        if response is not None:
            return response.status_code >= 500
        error = error.__cause__ or error.__context__
    return False
