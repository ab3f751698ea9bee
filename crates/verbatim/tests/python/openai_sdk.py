"""OpenAI's own Python client against a running Verbatim, as its users would drive it.

The service must offer `base` (the default) and `tiny.en`. Environment: VERBATIM_URL, VERBATIM_ENGLISH and
VERBATIM_SPANISH (wav files; see openai_sdk.rs for what they say).
"""

import io
import os
import subprocess
import unittest

import openai

ENGLISH = os.environ["VERBATIM_ENGLISH"]
SPANISH = os.environ["VERBATIM_SPANISH"]
CLIENT = openai.OpenAI(base_url=os.environ["VERBATIM_URL"] + "/v1", api_key="unused", max_retries=0)


def transcribe(path=ENGLISH, **options):
    with open(path, "rb") as file:
        return CLIENT.audio.transcriptions.create(file=file, **{"model": "whisper-1", **options})


def translate(path=SPANISH, **options):
    with open(path, "rb") as file:
        return CLIENT.audio.translations.create(file=file, **{"model": "whisper-1", **options})


def subtitles(text, kind):
    """The cues that ffmpeg reads out of subtitles: (start, end, text) of each, times in seconds."""
    command = ["ffmpeg", "-v", "error", "-f", kind, "-i", "-", "-f", "srt", "-"]
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    if run.stderr:
        raise AssertionError(f"ffmpeg complains: {run.stderr}")
    cues = [cue.split("\n", 2) for cue in run.stdout.strip().split("\n\n")]
    return [(*map(seconds, times.split(" --> ")), words.strip()) for _, times, words in cues]


def seconds(time):
    """00:01:02,345 as 62.345."""
    hours, minutes, rest = time.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


class Formats(unittest.TestCase):
    def assert_hello(self, text):
        self.assertIn("welcome to verbatim", text.lower())
        self.assertIn("recording of your own", text.lower())

    def test_json(self):
        answer = transcribe()
        self.assert_hello(answer.text)
        self.assertEqual(answer.usage.type, "duration")
        self.assertEqual(answer.usage.seconds, 10)

    def test_text(self):
        answer = transcribe(response_format="text")
        self.assertIsInstance(answer, str)
        self.assert_hello(answer)
        self.assertEqual(answer.strip(), transcribe().text)

    def test_srt(self):
        cues = subtitles(transcribe(response_format="srt"), "srt")
        self.assert_cues(cues)

    def test_vtt(self):
        body = transcribe(response_format="vtt")
        self.assertTrue(body.startswith("WEBVTT"))
        self.assert_cues(subtitles(body, "webvtt"))

    def assert_cues(self, cues):
        segments = transcribe(response_format="verbose_json").segments
        self.assertEqual([text for *_, text in cues], [segment.text.strip() for segment in segments])
        for (start, end, _), segment in zip(cues, segments, strict=True):
            self.assertAlmostEqual(start, segment.start, places=2)
            self.assertAlmostEqual(end, segment.end, places=2)

    def test_verbose_json(self):
        answer = transcribe(response_format="verbose_json")
        self.assertEqual(type(answer).__name__, "TranscriptionVerbose")
        self.assert_hello(answer.text)
        self.assertEqual(answer.language, "english")
        self.assertAlmostEqual(answer.duration, 9.485, places=2)
        self.assertIsNone(answer.words)
        self.assertEqual([segment.id for segment in answer.segments], list(range(len(answer.segments))))
        for segment in answer.segments:
            self.assertLess(segment.start, segment.end)
            self.assertLessEqual(segment.end, answer.duration + 0.01)
            self.assertLess(segment.avg_logprob, 0)
            self.assertGreater(len(segment.tokens), 2)

    def test_words(self):
        answer = transcribe(response_format="verbose_json", timestamp_granularities=["word"])
        self.assertEqual([word.word for word in answer.words], answer.text.split())
        times = [time for word in answer.words for time in (word.start, word.end)]
        self.assertEqual(times, sorted(times))
        self.assertGreater(times[-1], 8)
        self.assertLess(times[-1], 9.5)

    def test_stream(self):
        events = list(transcribe(stream=True))
        *deltas, done = events
        self.assertGreater(len(deltas), 0)
        self.assertEqual({event.type for event in deltas}, {"transcript.text.delta"})
        self.assertEqual(done.type, "transcript.text.done")
        self.assert_hello(done.text)
        self.assertEqual("".join(event.delta for event in deltas).strip(), done.text)


class Languages(unittest.TestCase):
    def test_detected(self):
        answer = transcribe(SPANISH, response_format="verbose_json")
        self.assertEqual(answer.language, "spanish")
        self.assertIn("el tiempo es muy bueno", answer.text.lower())

    def test_given(self):
        answer = transcribe(SPANISH, response_format="verbose_json", language="es")
        self.assertEqual(answer.language, "spanish")

    def test_translated(self):
        text = translate().text.lower()
        self.assertIn("the weather is very good", text)
        self.assertIn("park", text)

    def test_translated_formats(self):
        verbose = translate(response_format="verbose_json")
        self.assertIn("weather", verbose.text)
        self.assertIn("weather", translate(response_format="text"))
        self.assertTrue(subtitles(translate(response_format="srt"), "srt"))
        self.assertTrue(subtitles(translate(response_format="vtt"), "webvtt"))


class Refusals(unittest.TestCase):
    def assert_refused(self, error, param, *words):
        body = error.exception.body
        self.assertEqual({"message", "type", "param", "code"}, set(body))
        self.assertEqual(body["type"], "invalid_request_error")
        self.assertEqual(body["param"], param)
        self.assertTrue(error.exception.request_id)
        for word in words:
            self.assertIn(word, body["message"])

    def test_unknown_model(self):
        with self.assertRaises(openai.NotFoundError) as error:
            transcribe(model="whisper-9")
        self.assert_refused(error, "model", "whisper-9", "base")

    def test_english_model_asked_to_translate(self):
        with self.assertRaises(openai.BadRequestError) as error:
            translate(model="tiny.en")
        self.assert_refused(error, "model", "tiny.en", "translate")

    def test_english_model_asked_for_another_language(self):
        with self.assertRaises(openai.BadRequestError) as error:
            transcribe(SPANISH, model="tiny.en", language="es")
        self.assert_refused(error, "language", "tiny.en", "es")

    def test_unknown_format(self):
        with self.assertRaises(openai.BadRequestError) as error:
            transcribe(response_format="docx")
        self.assert_refused(error, "response_format", "docx")

    def test_broken_files(self):
        with open(ENGLISH, "rb") as file:
            header = file.read(44)
        broken = {"text.wav": b"This is no audio.", "empty.wav": b"", "header.wav": header, "zeros.mp3": bytes(5000)}
        for name, content in broken.items():
            with self.subTest(name), self.assertRaises(openai.APIStatusError) as error:
                CLIENT.audio.transcriptions.create(model="whisper-1", file=(name, io.BytesIO(content)))
            self.assertIn(error.exception.status_code, (400, 415, 422), name)
            self.assert_refused(error, "file")

    def test_models_are_listed(self):
        self.assertEqual({model.id for model in CLIENT.models.list()} - {"whisper-1"}, {"base", "tiny.en"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
