#!/usr/bin/env python3
"""Transcribes an audio file with OpenAI's own Python client, pointed at Verbatim. Needs `pip install openai`.

    openai_sdk.py talk.mp3              the text
    openai_sdk.py talk.mp3 --stream     the text as it is decoded

Server and key come from VERBATIM_SERVER and VERBATIM_API_KEY. The client tries again by itself what failed or was refused for
now, and heeds `Retry-After`.
"""

import argparse
import os

import openai


def transcribe(client: openai.OpenAI, path: str, stream: bool) -> None:
    with open(path, "rb") as file:
        if not stream:
            print(client.audio.transcriptions.create(model="whisper-1", file=file).text)
            return
        for event in client.audio.transcriptions.create(model="whisper-1", file=file, stream=True):
            if event.type == "transcript.text.delta":
                print(event.delta, end="", flush=True)
        print()


def _reason(error: openai.APIStatusError) -> str:
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return f"{error.status_code}: {said or error.message}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Transcribes an audio file with OpenAI's client.")
    parser.add_argument("file")
    parser.add_argument("--stream", action="store_true")
    arguments = parser.parse_args()
    server = os.environ.get("VERBATIM_SERVER", "http://127.0.0.1:8080")
    # Where no key is asked for, any will do, but the client wants one.
    client = openai.OpenAI(base_url=f"{server}/v1", api_key=os.environ.get("VERBATIM_API_KEY", "unused"))
    try:
        transcribe(client, arguments.file, arguments.stream)
    except FileNotFoundError:
        raise SystemExit(f"openai_sdk.py: cannot read {arguments.file}: No such file or directory") from None
    except openai.APIStatusError as error:
        raise SystemExit(f"openai_sdk.py: the server answers {_reason(error)}") from None
    except openai.APIConnectionError:
        raise SystemExit(f"openai_sdk.py: cannot reach {server}") from None


if __name__ == "__main__":
    main()
