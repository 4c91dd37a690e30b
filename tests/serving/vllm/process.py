"""A process that speaks vLLM's calls for a tiny Llama, and misbehaves on command.

It computes in NumPy alone, reads adapters as vLLM does (one LoRA, no PEFT), and starts at once.
`POST /stand_in {"fault": NAME}` makes it misbehave; `GET /stand_in` gives what it was asked.
STAND_IN_FAULT in the environment makes every start of it misbehave.
"""

import argparse
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

FAULTS = ("", "die", "die_midway", "drop", "hang", "hang_tokens", "forget", "500", "base", "old")


class TinyLlama:
    """Logits of a tiny Llama, with an adapter or without. Everything in float64."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = {
            k: v.astype(np.float64) for k, v in load_file(folder / "model.safetensors").items()
        }
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def logits(self, ids, lora):
        c, w = self.config, self.weights
        x = w["model.embed_tokens.weight"][np.array(ids)]
        for number in range(c["num_hidden_layers"]):
            name = f"model.layers.{number}"
            x = x + self._attention(
                self._norm(x, f"{name}.input_layernorm"), f"{name}.self_attn", lora
            )
            h = self._norm(x, f"{name}.post_attention_layernorm")
            gate = self._linear(h, f"{name}.mlp.gate_proj", lora)
            up = self._linear(h, f"{name}.mlp.up_proj", lora)
            x = x + self._linear(gate / (1 + np.exp(-gate)) * up, f"{name}.mlp.down_proj", lora)
        return self._norm(x, "model.norm") @ w["lm_head.weight"].T

    def _linear(self, x, name, lora):
        y = x @ self.weights[f"{name}.weight"].T
        if lora and name in lora:
            down, up = lora[name]
            y = y + x @ down.T @ up.T
        return y

    def _norm(self, x, name):
        scale = np.sqrt((x**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / scale * self.weights[f"{name}.weight"]

    def _attention(self, x, name, lora):
        c, length = self.config, len(x)
        heads, groups, width = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        q = self._linear(x, f"{name}.q_proj", lora).reshape(length, heads, width)
        k = self._linear(x, f"{name}.k_proj", lora).reshape(length, groups, width)
        v = self._linear(x, f"{name}.v_proj", lora).reshape(length, groups, width)
        theta = (c.get("rope_parameters") or c).get("rope_theta", 10000.0)
        angles = np.arange(length)[:, None] / theta ** (np.arange(0, width, 2) / width)
        q, k = (_rotated(each, angles[:, None]) for each in (q, k))
        k, v = (np.repeat(each, heads // groups, axis=1) for each in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(width)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("hij,jhd->ihd", weights, v).reshape(length, heads * width)
        return self._linear(y, f"{name}.o_proj", lora)


def _rotated(x, angles):
    one, two = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)


def read_lora(folder, max_rank):
    """An adapter as vLLM reads it: the weights by layer, the scale in the second factor."""
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("use_dora") or config.get("modules_to_save"):
        raise ValueError("vLLM does not yet support DoRA.")
    if config["r"] > max_rank:
        raise ValueError(f"LoRA rank {config['r']} is greater than max_lora_rank {max_rank}.")
    lora = {}
    for name, weight in load_file(folder / "adapter_model.safetensors").items():
        layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        factors = lora.setdefault(layer, [None, None])
        factors[part.startswith("B")] = weight.astype(np.float64)
    scale = config["lora_alpha"] / config["r"]
    return {layer: (down, up * scale) for layer, (down, up) in lora.items()}


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class State:
    def __init__(self, args):
        self.args = args
        self.model = TinyLlama(Path(args.model))
        self.fault = os.environ.get("STAND_IN_FAULT", "")
        self.adapters = {}
        self.asked = []
        self.num_loads = 0
        self.token_seconds = 0.0

    def cards(self):
        base = self.args.served_model_name
        yield {
            "id": base,
            "root": self.args.model,
            "parent": None,
            "max_model_len": self.args.max_model_len,
        }
        for name, (folder, _) in self.adapters.items():
            yield {"id": name, "root": folder, "parent": base}

    def lora(self, name):
        """Raises KeyError for a name that is not there."""
        if name == self.args.served_model_name:
            return None
        lora = self.adapters[name][1]
        return None if self.fault == "base" else lora


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/stand_in":
            return self.reply(200, {"asked": self.state.asked, "loads": self.state.num_loads})
        self.misbehave()
        if self.path == "/health":
            return self.reply(200, None)
        if self.path == "/version":
            return self.reply(200, {"version": "0.20.1" if self.state.fault == "old" else "0.32.0"})
        if not self.is_let_in():
            return self.reply(401, {"error": "Unauthorized"})
        if self.path == "/v1/models":
            return self.reply(200, {"object": "list", "data": list(self.state.cards())})
        return self.reply(404, {"detail": "Not Found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/stand_in":
            self.obey(body)
            return None
        self.misbehave()
        if not self.is_let_in():
            return self.reply(401, {"error": "Unauthorized"})
        routes = {
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
            "/v1/completions": self.complete,
        }
        return routes.get(self.path, self.nowhere)(body)

    def nowhere(self, _):
        self.reply(404, {"detail": "Not Found"})

    def unload(self, body):
        if self.state.adapters.pop(body["lora_name"], None) is None:
            self.refuse(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        else:
            self.reply(200, "Success")

    def is_let_in(self):
        key = os.environ.get("VLLM_API_KEY")
        return not key or self.headers["Authorization"] == f"Bearer {key}"

    def misbehave(self):
        if self.state.fault == "hang":
            time.sleep(3600)

    def obey(self, body):
        self.state.token_seconds = body.get("token_seconds", 0.0)
        fault = body.get("fault", "")
        assert fault in FAULTS
        if fault == "forget":
            self.state.adapters.clear()
        else:
            self.state.fault = fault
        self.reply(200, None)
        if fault == "die":
            self.wfile.flush()
            os._exit(3)

    def load(self, body):
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") != "1":
            return self.reply(404, {"detail": "Not Found"})
        name, folder = body["lora_name"], body["lora_path"]
        if name in self.state.adapters:
            return self.refuse(400, f"The lora adapter '{name}' has already been loaded.")
        try:
            lora = read_lora(Path(folder), self.state.args.max_lora_rank)
        except (OSError, ValueError, KeyError) as error:
            return self.refuse(500, str(error))
        self.state.adapters[name] = (folder, lora)
        self.state.num_loads += 1
        return self.reply(200, f"Success: LoRA adapter '{name}' added successfully.")

    def complete(self, body):
        self.state.asked.append(body)
        if self.state.fault == "500":
            return self.refuse(500, "Internal Server Error")
        try:
            lora = self.state.lora(body["model"])
        except KeyError:
            return self.refuse(404, f"The model `{body['model']}` does not exist.")
        if (body.get("logprobs") or 0) > 20:
            return self.refuse(400, "Requested more than 20 logprobs", param="logprobs")
        if not body.get("stream"):
            return self.reply(200, self.scored(body, lora))
        return self.stream(body, lora)

    def scored(self, body, lora):
        ids = body["prompt"]
        values = log_softmax(self.state.model.logits(ids, lora))
        listed = [None]
        listed += [{str(t): {"logprob": float(values[i, t])}} for i, t in enumerate(ids[1:])]
        choice = {"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": listed}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}

    def stream(self, body, lora):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        count = 0
        for text, chosen, reason in self.tokens(body, lora):
            if self.state.fault == "hang_tokens":
                time.sleep(3600)
            if count == 2 and self.state.fault == "die_midway":
                os._exit(4)
            if count == 2 and self.state.fault == "drop":
                self.close_connection = True
                return
            time.sleep(self.state.token_seconds)
            count += 1
            self.event({"choices": [{"index": 0, "text": text, "finish_reason": reason, **chosen}]})
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count}
        self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def tokens(self, body, lora):
        """Text, log-probabilities and reason of each token. Only stop strings' plain case."""
        model, ids, new, shown = self.state.model, list(body["prompt"]), [], ""
        random = np.random.default_rng(body.get("seed"))
        for number in range(body["max_tokens"]):
            values = log_softmax(model.logits(ids + new, lora)[-1])
            token = self.choose(values, body, random)
            new.append(token)
            is_end = token in body["stop_token_ids"]
            text = model.tokenizer.decode(new, skip_special_tokens=True).rstrip("\ufffd")
            stops = [text.find(each) for each in body["stop"] if each in text]
            if stops:
                text = text[: min(stops)]
            reason = (
                "stop"
                if is_end or stops
                else "length"
                if number + 1 == body["max_tokens"]
                else None
            )
            yield text[len(shown) :], self.chosen(values, token, body), reason
            shown = text
            if reason:
                return

    def choose(self, values, body, random):
        biased = values.copy()
        for token, bias in (body.get("logit_bias") or {}).items():
            biased[int(token)] += bias
        if body["temperature"] == 0:
            return int(biased.argmax())
        chances = np.exp(log_softmax(biased / body["temperature"]))
        return int(random.choice(len(chances), p=chances / chances.sum()))

    def chosen(self, values, token, body):
        if body.get("logprobs") is None:
            return {}
        best = np.argsort(-values)[: body["logprobs"]]
        top = {f"token_id:{each}": float(values[each]) for each in {*best.tolist(), token}}
        named = {"tokens": [f"token_id:{token}"], "token_logprobs": [float(values[token])]}
        return {"logprobs": named | {"top_logprobs": [top]}}

    def event(self, value):
        self.chunk(f"data: {json.dumps(value)}\n\n".encode())

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def refuse(self, status, message, param=None):
        self.reply(
            status, {"error": {"message": message, "type": "Error", "param": param, "code": status}}
        )

    def reply(self, status, value):
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Clients that leave in the middle are no news."""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--served-model-name", default="tiny")
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-loras", type=int, default=1)
    parser.add_argument("--max-cpu-loras", type=int, default=1)
    parser.add_argument("--max-lora-rank", type=int, default=16)
    parser.add_argument("--max-model-len", type=int, default=256)
    parser.add_argument("--generation-config", default="auto")
    parser.add_argument("--slow-start", type=float, default=0)
    parser.add_argument("--die-at-start", action="store_true")
    args = parser.parse_args()
    if args.die_at_start:
        sys.exit("RuntimeError: no GPU is left")
    time.sleep(args.slow_start)
    Handler.state = State(args)
    server = Server((args.host, args.port), Handler)
    sys.stdout.write(f"listening on {server.server_address[1]}\n")
    threading.Thread(target=server.serve_forever, daemon=False).start()


if __name__ == "__main__":
    main()
