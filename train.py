"""The command line: ``python train.py fit|validate|test|predict --config FILE [--data.group_size 16 ...]``."""

from lit_tpgrpo.cli import main

if __name__ == "__main__":
    main()
