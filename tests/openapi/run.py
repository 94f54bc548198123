"""The management API against its own description, by schemathesis.

    run.py PROGRAM [SECONDS]

Starts the program on free ports with SQLite, lets schemathesis send what the description at /openapi.json allows and what
it does not, and exits with its status. Two checks are left out: whatever the description allows is accepted (it cannot say
that a project must exist), and wrong credentials are refused (they are held back longer each time; `management/tests`
holds that).
"""

import json
import os
import subprocess
import sys
import tempfile
import time

BEARER = "management-bearer-of-the-openapi-check"
EXCLUDED = "positive_data_acceptance,ignored_auth"


def start(program, folder):
    state = os.path.join(folder, "state")
    os.makedirs(state)
    config = {
        "server": {"listen": "127.0.0.1:0", "state_dir": state},
        "management": {"listen": "127.0.0.1:0", "token": BEARER},
        "database": {"path": os.path.join(state, "llm-proxy.db")},
        "providers": {"openai": {"base_url": "http://127.0.0.1:9", "api_key": "sk-provider-key"}},
        "cache": {"enabled": True},
    }
    path = os.path.join(folder, "llm-proxy.yaml")
    with open(path, "w") as file:
        json.dump(config, file)  # JSON is YAML
    log = open(os.path.join(folder, "log"), "w")
    process = subprocess.Popen([program, "server", "-c", path], cwd=folder, stdout=log, stderr=log)
    listening = os.path.join(state, "listening.json")
    for _ in range(1000):
        if os.path.exists(listening):
            with open(listening) as file:
                return process, "http://" + json.load(file)["management"]
        if process.poll() is not None:
            break
        time.sleep(0.01)
    process.kill()
    with open(log.name) as file:
        raise SystemExit("the program does not listen:\n" + file.read())


def main():
    program = os.path.abspath(sys.argv[1])
    seconds = sys.argv[2] if len(sys.argv) > 2 else "60"
    with tempfile.TemporaryDirectory(prefix="openapi-") as folder:
        process, management = start(program, folder)
        try:
            schemathesis = os.path.join(os.path.dirname(sys.executable), "schemathesis")
            command = [schemathesis, "run", management + "/openapi.json"]
            command += ["-H", f"Authorization: Bearer {BEARER}", "-c", "all", "--exclude-checks", EXCLUDED]
            command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--max-time", seconds, "--warnings", "off"]
            command += ["--suppress-health-check", "all"]
            result = subprocess.run(command, cwd=folder).returncode
            if process.poll() is not None:
                raise SystemExit(f"the program ended: {process.returncode}")
        finally:
            process.terminate()
            process.wait()
    sys.exit(result)


main()
