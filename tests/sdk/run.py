"""The unmodified openai and anthropic packages against the program and the fake provider.

    run.py PROGRAM [DATABASE_URL]

Starts the program on free ports (SQLite, or PostgreSQL when a URL is given), runs every check, and exits 1 if one fails.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone

import anthropic
import openai

import provider

BEARER = "management-bearer-of-the-sdk-checks"
TOOL = {"name": "weather", "description": "the weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


class Edge:
    """The running program."""

    def __init__(self, program, upstream, database_url):
        self.folder = tempfile.TemporaryDirectory(prefix="sdk-edge-")
        state = os.path.join(self.folder.name, "state")
        config = {
            "server": {"listen": "127.0.0.1:0", "state_dir": state},
            "management": {"listen": "127.0.0.1:0", "token": BEARER},
            "database": {"driver": "postgres", "url": database_url} if database_url else {"path": os.path.join(state, "llm-proxy.db")},
            "providers": {
                "openai": {"base_url": upstream, "api_key": "sk-provider-key-openai"},
                "anthropic": {"base_url": upstream, "api_key": "sk-provider-key-anthropic"},
            },
        }
        path = os.path.join(self.folder.name, "llm-proxy.yaml")
        with open(path, "w") as file:
            json.dump(config, file)  # JSON is YAML
        os.makedirs(state)
        self.log = open(os.path.join(self.folder.name, "log"), "w+")
        environment = {"PATH": os.environ["PATH"], "HOME": self.folder.name}
        self.process = subprocess.Popen(
            [program, "server", "-c", path], cwd=self.folder.name, env=environment, stdout=self.log, stderr=self.log
        )
        ports = self.wait_for_ports(os.path.join(state, "listening.json"))
        self.proxy, self.management = f"http://{ports['proxy'][0]}", f"http://{ports['management']}"
        self.projects = 0

    def wait_for_ports(self, path):
        for _ in range(1000):
            if self.process.poll() is not None:
                break
            try:
                with open(path) as file:
                    return json.load(file)
            except (OSError, ValueError):
                time.sleep(0.01)
        self.log.seek(0)
        raise SystemExit("the program does not listen:\n" + self.log.read())

    def manage(self, method, path, body=None):
        request = urllib.request.Request(self.management + path, method=method, data=None if body is None else json.dumps(body).encode())
        request.add_header("Authorization", f"Bearer {BEARER}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or b"null")

    def token(self, **fields):
        self.projects += 1
        project = self.manage("POST", "/manage/projects", {"name": f"project {self.projects}"})
        if "expires_at" not in fields:
            fields["duration_minutes"] = 60
        return self.manage("POST", "/manage/tokens", {"project_id": project["id"], **fields})

    def openai(self, secret):
        return openai.OpenAI(base_url=self.proxy + "/v1", api_key=secret, max_retries=0)

    def anthropic(self, secret):
        return anthropic.Anthropic(base_url=self.proxy, api_key=secret, max_retries=0)

    def stop(self):
        self.process.terminate()
        code = self.process.wait(20)
        self.log.close()
        self.folder.cleanup()
        assert code == 0, f"exit code {code}"


def say(role="user", content="hello"):
    return [{"role": role, "content": content}]


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def openai_lists_models(edge):
    names = [model.id for model in edge.openai(edge.token()["token"]).models.list()]
    assert "gpt-fake" in names, names


def openai_completes(edge):
    answer = edge.openai(edge.token()["token"]).chat.completions.create(model="gpt-fake", messages=say())
    assert answer.choices[0].message.content == "hello from the provider", answer
    assert answer.usage.total_tokens == 13


def openai_streams(edge):
    client = edge.openai(edge.token()["token"])
    chunks = list(client.chat.completions.create(model="gpt-fake", messages=say(), stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "hello from the provider", chunks
    chunks = list(client.chat.completions.create(model="gpt-fake", messages=say(), stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.total_tokens == 13, chunks[-1]


def openai_calls_a_tool(edge):
    client = edge.openai(edge.token()["token"])
    tools = [{"type": "function", "function": TOOL}]
    answer = client.chat.completions.create(model="gpt-fake", messages=say(), tools=tools)
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"}), call
    parts = [c.choices[0].delta.tool_calls for c in client.chat.completions.create(model="gpt-fake", messages=say(), tools=tools, stream=True)]
    arguments = "".join(p[0].function.arguments for p in parts if p)
    assert json.loads(arguments) == {"city": "Paris"}, arguments


def openai_embeds(edge):
    answer = edge.openai(edge.token()["token"]).embeddings.create(model="gpt-fake", input="x", encoding_format="float")
    assert answer.data[0].embedding == [0.25, -0.5]


def anthropic_lists_models(edge):
    names = [model.id for model in edge.anthropic(edge.token()["token"]).models.list()]
    assert names, names


def anthropic_completes(edge):
    client = edge.anthropic(edge.token()["token"])
    answer = client.messages.create(model="claude-fake", max_tokens=64, messages=say())
    assert answer.content[0].text == "hello from the provider", answer
    assert client.messages.count_tokens(model="claude-fake", messages=say()).input_tokens == 9


def anthropic_streams(edge):
    client = edge.anthropic(edge.token()["token"])
    with client.messages.stream(model="claude-fake", max_tokens=64, messages=say()) as stream:
        assert "".join(stream.text_stream) == "hello from the provider"
        assert stream.get_final_message().stop_reason == "end_turn"


def anthropic_calls_a_tool(edge):
    client = edge.anthropic(edge.token()["token"])
    tools = [{"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}]
    answer = client.messages.create(model="claude-fake", max_tokens=64, messages=say(), tools=tools)
    assert answer.content[0].input == {"city": "Paris"}, answer
    with client.messages.stream(model="claude-fake", max_tokens=64, messages=say(), tools=tools) as stream:
        assert stream.get_final_message().content[0].input == {"city": "Paris"}


def both_calls(edge, secret):
    chat = lambda: edge.openai(secret).chat.completions.create(model="gpt-fake", messages=say())
    message = lambda: edge.anthropic(secret).messages.create(model="claude-fake", max_tokens=64, messages=say())
    return (openai, chat), (anthropic, message)


def wrong_token_is_an_authentication_error(edge):
    for package, call in both_calls(edge, "sk-nobody-knows-this-token"):
        raises(package.AuthenticationError, call)


def revoked_token_is_an_authentication_error(edge):
    token = edge.token()
    for _, call in both_calls(edge, token["token"]):
        call()
    edge.manage("DELETE", f"/manage/tokens/{token['id']}")
    for package, call in both_calls(edge, token["token"]):
        raises(package.AuthenticationError, call)


def expired_token_is_an_authentication_error(edge):
    until = datetime.now(timezone.utc) + timedelta(seconds=2)
    token = edge.token(expires_at=until.isoformat().replace("+00:00", "Z"))
    for _, call in both_calls(edge, token["token"]):
        call()
    time.sleep(max(0, (until - datetime.now(timezone.utc)).total_seconds()) + 0.1)
    for package, call in both_calls(edge, token["token"]):
        raises(package.AuthenticationError, call)


def used_up_token_is_a_rate_limit_error(edge):
    for index in range(2):
        secret = edge.token(max_requests=2)["token"]
        package, call = both_calls(edge, secret)[index]
        call()
        call()
        error = raises(package.RateLimitError, call)
        assert error.response.headers["x-should-retry"] == "false", error.response.headers


def used_up_token_is_not_retried_by_the_package(edge):
    secret = edge.token(max_requests=1)["token"]
    client = openai.OpenAI(base_url=edge.proxy + "/v1", api_key=secret, max_retries=5)
    call = lambda: client.chat.completions.create(model="gpt-fake", messages=say())
    call()
    begun = time.monotonic()
    error = raises(openai.RateLimitError, call)
    assert error.code == "token_quota_exceeded" and time.monotonic() - begun < 0.4, error


def unknown_path_is_a_not_found_error(edge):
    raises(openai.NotFoundError, lambda: edge.openai(edge.token()["token"]).get("/no/such/path", cast_to=object))


# Of three tries of a package the first is tried three times, the second twice, the third once.
MOST_ATTEMPTS = 6


def bounded(model):
    asked = provider.ASKED.get(model, [])
    counts = [asked.count(str(count)) for count in range(3)]
    assert len(asked) <= MOST_ATTEMPTS and counts == [3, 2, 1], asked


def retries_of_openai_and_ours_stay_bounded(edge):
    client = edge.openai(edge.token()["token"]).with_options(max_retries=2)
    error = raises(openai.InternalServerError, lambda: client.chat.completions.create(model="down-openai", messages=say()))
    assert error.status_code == 500 and "out of order" in str(error), error
    bounded("down-openai")


def retries_of_anthropic_and_ours_stay_bounded(edge):
    client = edge.anthropic(edge.token()["token"]).with_options(max_retries=2)
    error = raises(
        anthropic.InternalServerError,
        lambda: client.messages.create(model="down-anthropic", max_tokens=9, messages=say()),
    )
    assert error.status_code == 500 and "out of order" in str(error), error
    bounded("down-anthropic")


def retries_of_openai_for_node_and_ours_stay_bounded(edge):
    folder = os.environ.get("SDK_NODE")
    if not folder:
        print("        (without `npm` nothing was asked by the package for Node)")
        return
    script = """
        const OpenAI = require('openai');
        const client = new OpenAI({ maxRetries: 2 });
        client.chat.completions.create({ model: 'down-node', messages: [{ role: 'user', content: 'x' }] })
            .then(() => process.exit(1), (error) => process.exit(error.status === 500 ? 0 : 1));
    """
    environment = {**os.environ, "OPENAI_BASE_URL": edge.proxy + "/v1", "OPENAI_API_KEY": edge.token()["token"]}
    subprocess.run(["node", "-e", script], cwd=folder, env=environment, check=True, timeout=60)
    bounded("down-node")


CHECKS = [
    openai_lists_models,
    openai_completes,
    openai_streams,
    openai_calls_a_tool,
    openai_embeds,
    anthropic_lists_models,
    anthropic_completes,
    anthropic_streams,
    anthropic_calls_a_tool,
    wrong_token_is_an_authentication_error,
    revoked_token_is_an_authentication_error,
    expired_token_is_an_authentication_error,
    used_up_token_is_a_rate_limit_error,
    used_up_token_is_not_retried_by_the_package,
    unknown_path_is_a_not_found_error,
    retries_of_openai_and_ours_stay_bounded,
    retries_of_anthropic_and_ours_stay_bounded,
    retries_of_openai_for_node_and_ours_stay_bounded,
]


def main():
    program = os.path.abspath(sys.argv[1])
    _, upstream = provider.start()
    edge = Edge(program, upstream, sys.argv[2] if len(sys.argv) > 2 else None)
    failed = 0
    try:
        for check in CHECKS:
            try:
                check(edge)
                print(f"ok      {check.__name__}")
            except Exception:
                failed += 1
                print(f"FAILED  {check.__name__}\n{traceback.format_exc()}")
    finally:
        edge.stop()
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
