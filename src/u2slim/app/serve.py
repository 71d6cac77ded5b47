"""`u2slim serve`: cut-outs over HTTP, and a page to try them on."""

import argparse
import importlib
import logging
import sys
from functools import partial

from u2slim.app.options import Commands, add_command, add_net_options, count
from u2slim.errors import missing_extra

# The package that brings each module.
NEEDED = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
AT_ONCE = 8  # photos that may come together, by which the number at work is chosen
MAX_BYTES = 64_000_000
MAX_MEGAPIXELS = 64
SECONDS = 60
EXAMPLES = """\
  u2slim serve                                    a page at http://127.0.0.1:8000/, for this machine alone
  u2slim serve --net lite-s --port 8080
  curl -F file=@photo.jpg 'http://127.0.0.1:8000/cut?background=white&format=jpeg' -o cut.jpg
"""


def add_to(commands: Commands) -> None:
    """Add the command to a parser's."""
    about = "cut photos out over HTTP, until Ctrl-C or SIGTERM, with a page to try it on"
    parser = add_command(commands, run, "serve", about, EXAMPLES)
    add = parser.add_argument_group("access and limits").add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; default: 127.0.0.1, for this machine alone",
    )
    add("--port", type=_port, default=8000, metavar="N", help="port to listen at; default: 8000; 0: any free one")
    add(
        "--max-megapixels",
        type=_megapixels,
        default=MAX_MEGAPIXELS,
        metavar="N",
        help=f"most megapixels of a photo; default: {MAX_MEGAPIXELS}",
    )
    add(
        "--max-bytes",
        type=_bytes,
        default=MAX_BYTES,
        metavar="N",
        help=f"most bytes of a photo's file; default: {MAX_BYTES}",
    )
    add(
        "--timeout",
        type=count,
        default=SECONDS,
        metavar="N",
        help=f"seconds in which a photo must arrive; default: {SECONDS}",
    )
    add(
        "--concurrency",
        type=count,
        metavar="N",
        help="photos processed at once, with as many more waiting; default: one per core, at most 8",
    )
    add_net_options(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, which are the usual ends."""
    for module, package in NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise missing_extra("u2slim serve", package, "serve") from error
    from u2slim.app.connections import listen, serve
    from u2slim.app.received import Limits
    from u2slim.app.service import Service
    from u2slim.app.work import memory_each, processes
    from u2slim.cutout.batch import default_workers

    concurrency = options.concurrency or default_workers(AT_ONCE)
    options.no_stretch = False  # each request says it for itself
    with listen(options.host, options.port) as listener:  # first, as a port that is taken is told at once
        limits = Limits(
            concurrency,
            options.max_bytes,
            options.max_megapixels * 1_000_000,
            options.timeout,
            memory_each(concurrency),
        )
        # Guests shall not fill the output with what is wrong with their forms; they are told.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        with Service(options.net, partial(processes, options, limits), limits) as service:
            if not _is_loopback(host):
                print(
                    "u2slim: anyone who can reach this address can use the server; there is no login.", file=sys.stderr
                )
            print(f"serving {options.net} with {service.runtime} at {address}; Ctrl-C ends it", flush=True)
            serve(service.app(), listener, options.timeout)
    return 0


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    return ip_address(host.partition("%")[0]).is_loopback


def _port(text: str) -> int:
    return 0 if text == "0" else count(text, 65_535)


def _megapixels(text: str) -> int:
    return count(text, 512)


def _bytes(text: str) -> int:
    return count(text, 2**32)
