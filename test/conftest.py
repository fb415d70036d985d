import pytest


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the whole matrix of real servers too")


def pytest_collection_modifyitems(config, items):
    full, cuda = config.getoption("--full"), None
    for item in items:
        if "full" in item.keywords and not full:
            item.add_marker(pytest.mark.skip(reason="part of the full matrix: --full runs it"))
        if "gpu" in item.keywords:
            if cuda is None:
                import torch

                cuda = torch.cuda.is_available()
            if not cuda:
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))
