"""Run as a script with a hub name: downloads the model to the hub's cache, and prints where it is."""

import sys


def main() -> None:
    from huggingface_hub import snapshot_download

    print(snapshot_download(sys.argv[1]))


if __name__ == "__main__":
    main()
