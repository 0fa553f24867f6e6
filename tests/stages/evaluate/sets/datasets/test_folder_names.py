import pytest

from stages.evaluate.sets.datasets.folder_names import class_name_from_folder, code_names, names_from_folders


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("jet_plane", "jet plane"),
        ("cat", "cat"),
        ("_polar__bear_", "polar bear"),
        ("x-ray", "x-ray"),
        ("hot dog", "hot dog"),
        ("hot%20dog", "hot dog"),
        ("mac%26cheese", "mac&cheese"),
        ("caf%C3%A9", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("cafe\N{COMBINING ACUTE ACCENT}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("R&amp;B", "R&B"),
        ("it&#39;s", "it's"),
        ("R&B", "R&B"),
        ("50%de", "50%de"),
        ("100%", "100%"),
        ("a%00b", "a%00b"),
        ("C++", "C++"),
        ("HOT_DOG", "HOT DOG"),
        ("iPhone", "iPhone"),
    ],
)
def test_class_name_from_folder__reads_words(folder: str, name: str) -> None:
    assert class_name_from_folder(folder) == name


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["001.Black_footed_Albatross", "002.Laysan_Albatross"], ["Black footed Albatross", "Laysan Albatross"]),
        (["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], ["Chihuahua", "Japanese spaniel"]),
        (["1.cat", "2.dog", "10.rat"], ["cat", "dog", "rat"]),
        (["00_cat", "01_dog"], ["cat", "dog"]),
        (["001.%C3%A9clair", "002.taco"], ["001.\N{LATIN SMALL LETTER E WITH ACUTE}clair", "002.taco"]),
        (["001.cat", "dog"], ["001.cat", "dog"]),
        (["001.cat", "001.dog"], ["001.cat", "001.dog"]),
        (["1_star", "2_stars"], ["1 star", "2 stars"]),
        (["10_coins", "20_coins"], ["10 coins", "20 coins"]),
        (["747-400", "707-320"], ["747-400", "707-320"]),
        (["0", "1"], ["0", "1"]),
    ],
)
def test_names_from_folders__leave_out_numbers_that_count_the_folders(folders: list[str], names: list[str]) -> None:
    assert names_from_folders(folders) == names


def test_code_names__are_ids_and_numbers() -> None:
    codes = ["n01440764", "n02085620-Chihuahua", "001.Tern", "00", "17"]
    assert code_names([*codes, "7", "747-400", "tern", "n1", "2012"[:1]]) == codes
