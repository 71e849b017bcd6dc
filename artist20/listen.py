"""Listen with a trained network in a browser: drop a song, or record one, and see who it is.

Reads   the checkpoint; the encoder's weights, if it has one
Writes  nothing; an upload lies in a temporary folder until it was heard, and the pages of the
        last twenty stay in memory until the program ends

Gradio serves the page: pip install -r requirements-app.txt. Only this machine can reach it, unless
--host says otherwise: there is no password then.

    python -m artist20.listen --checkpoint results/task2/resnet/best.pt
"""

import artist20.packages  # says which are missing

import argparse
import html
import os
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from artist20 import UserError, audio, cli, inference, runtime
from artist20.checkpoints import TrainedModel, load_model
from artist20.report import listening
from artist20.trained import TrainedNetwork, load_network

if TYPE_CHECKING:
    import gradio

MAX_BYTES = 50 * 2**20  # of a file
MAX_SECONDS = 15 * 60.0  # of a song
MAX_WAITING = 20  # songs; who comes then is told to come again
ABANDONED = (60, 600)  # seconds between looks for uploads that nobody waits for, and their age

# Gives the frame of a song's page the height that the page asks for.
FIT_FRAME = """<script>
addEventListener("message", ({ source, data }) => {
  for (const frame of document.querySelectorAll("iframe"))
    if (frame.contentWindow === source) frame.style.height = `${Number(data)}px`;
});
</script>"""


def answer(file: Path, network: TrainedNetwork, checkpoint: TrainedModel) -> str:
    """Return what is shown of an upload: its page in a frame, or a sentence on what is wrong.

    Neither has the file's path in it.
    """
    try:
        with warnings.catch_warnings(record=True, action="always") as caught:
            seconds = 0.0
            for block in audio.read_blocks(file):
                seconds += len(block) / audio.SAMPLE_RATE
                if seconds > MAX_SECONDS:
                    raise audio.AudioError(file, f"is longer than {MAX_SECONDS / 60:g} minutes")
        odd = [note.message for note in caught if isinstance(note.message, audio.AudioNote)]
        notes = [f"Note: this file {note.reason}." for note in odd]
        page = listening.song_page(file, notes, network, checkpoint, None)
    except audio.AudioError as error:
        return f'<p role="alert">This file {html.escape(error.reason)}.</p>'
    # Of an origin of its own: whatever might be in the page cannot reach the app.
    return (
        '<iframe title="The song, and who is heard in it" sandbox="allow-scripts" '
        f'style="width: 100%; height: 46rem; border: 0" srcdoc="{html.escape(page)}"></iframe>'
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE", help="best.pt of any network"
    )
    cli.add_encoder_weights_option(parser)
    cli.add_device_option(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=cli.positive_int, default=7860, help="port to listen on")
    return parser.parse_args()


def start(
    host: str, port: int, network: TrainedNetwork, checkpoint: TrainedModel
) -> "gradio.Blocks":
    """Start to serve the app, in threads of its own; uploads lie in ``GRADIO_TEMP_DIR``."""
    import gradio

    # Uploads of the same song are one file, named by its content. It is deleted when the first of
    # those who wait for it is answered: the others get the same.
    @lru_cache(MAX_WAITING)
    def answer_all(file: str) -> str:
        return answer(Path(file), network, checkpoint)

    def hear(file: str) -> tuple[None, str]:
        try:
            return None, answer_all(file)
        finally:
            Path(file).unlink(missing_ok=True)

    about = (
        f"<h1>Who is it?</h1><p>Drop a song, or record one, of {MAX_SECONDS / 60:g} minutes and "
        f"{MAX_BYTES >> 20} MB at most; it is deleted once it was heard. "
        f"{html.escape(f'{checkpoint.settings.title}, {inference.describe(checkpoint)}')}.</p>"
    )
    with gradio.Blocks(title="Who is it?", analytics_enabled=False, delete_cache=ABANDONED) as app:
        gradio.HTML(about)
        song = gradio.Audio(sources=["upload", "microphone"], type="filepath", label="A song")
        heard = gradio.HTML()
        arrives = [song.upload, song.stop_recording]
        gradio.on(arrives, hear, song, [song, heard], api_visibility="private")
    app.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    try:
        app.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            max_file_size=MAX_BYTES,
            footer_links=[],
            head=FIT_FRAME,
            theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )
    except OSError:
        line = f"cannot listen on {host}, port {port}: name another --port or --host"
        raise UserError(line) from None
    return app


def main() -> None:
    """Load the network and serve the app until it is stopped."""
    args = parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # or it would tell its makers
    with tempfile.TemporaryDirectory() as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        try:
            import gradio  # noqa: F401
        except ModuleNotFoundError:
            raise UserError("this needs Gradio: pip install -r requirements-app.txt") from None
        checkpoint = load_model(args.checkpoint, TrainedModel, "a script that trains a network")
        device = runtime.choose_device(args.device)
        network = load_network(args.checkpoint, checkpoint, device, args.encoder_weights)
        app = start(args.host, args.port, network, checkpoint)
        print(f"listening on {app.local_url}; Ctrl-C ends it", flush=True)
        app.block_thread()


if __name__ == "__main__":
    runtime.run(main)
