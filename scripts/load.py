#!/usr/bin/env python3
"""Sends requests to one URL over keep-alive connections until told to stop (SIGTERM or SIGINT).

Prints one JSON line at the end: how many requests, how many failed, and the first failures.
A failure is a connection error, a timeout, or a status of 500 and above.
"""

import http.client
import json
import signal
import sys
import threading
import time
import urllib.parse

stop = threading.Event()
lock = threading.Lock()
totals = {"requests": 0, "failures": 0, "examples": [], "versions": {}}


def worker(url):
    parts = urllib.parse.urlsplit(url)
    connection = None
    while not stop.is_set():
        problem = version = None
        try:
            if connection is None:
                connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
            connection.request("GET", parts.path or "/", headers={"Host": parts.netloc})
            response = connection.getresponse()
            body = response.read()
            if response.status >= 500:
                problem = f"status {response.status}: {body[:200]!r}"
            else:
                version = json.loads(body).get("version")
            if response.will_close:
                connection.close()
                connection = None
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            # A server may close an idle keep-alive connection at any time; clients send an
            # idempotent request again on a fresh one (RFC 9110, 9.2.2). Twice is a failure.
            try:
                connection.close()
                connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
                connection.request("GET", parts.path or "/", headers={"Host": parts.netloc})
                response = connection.getresponse()
                response.read()
                if response.status >= 500:
                    problem = f"status {response.status}"
            except (OSError, http.client.HTTPException) as again:
                problem, connection = repr(again), None
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem, connection = repr(error), None
        with lock:
            totals["requests"] += 1
            if version is not None:
                totals["versions"][version] = totals["versions"].get(version, 0) + 1
            if problem:
                totals["failures"] += 1
                if len(totals["examples"]) < 5:
                    totals["examples"].append(problem)
        time.sleep(0.005)


def main():
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    threads = [threading.Thread(target=worker, args=(sys.argv[1],)) for _ in range(int(sys.argv[2]))]
    for thread in threads:
        thread.start()
    while not stop.is_set():
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    print(json.dumps(totals))


if __name__ == "__main__":
    main()
