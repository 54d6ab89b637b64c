import re

import pytest
from support.paths import REPOSITORY

from dermalert.errors import UsageError
from dermalert.taxonomy import DIAGNOSES, MALIGNANT, PRECURSOR, diagnosis, find, finer, malignancy

AK, BCC, DF, MEL, NV, PBK, SK, SCC, VASC = DIAGNOSES

NAMES = {
    "the nine-class Kaggle set": dict(zip(DIAGNOSES, DIAGNOSES, strict=True)),
    "HAM10000": {"akiec": None, "bcc": BCC, "bkl": PBK, "df": DF, "mel": MEL, "nv": NV, "vasc": VASC},
    "ISIC 2017": {"melanoma": MEL, "seborrheic_keratosis": SK, "nevus": NV},
    "ISIC 2018": {"MEL": MEL, "NV": NV, "BCC": BCC, "AKIEC": None, "BKL": PBK, "DF": DF, "VASC": VASC},
    "ISIC 2019": {"MEL": MEL, "NV": NV, "BCC": BCC, "AK": AK, "BKL": PBK, "DF": DF, "VASC": VASC, "SCC": SCC}
    | {"UNK": None},
    "ISIC 2020": {"melanoma": MEL, "nevus": NV, "seborrheic keratosis": SK}
    | {"lichenoid keratosis": PBK, "solar lentigo": PBK}
    | dict.fromkeys(("unknown", "lentigo NOS", "cafe-au-lait macule"))
    | {"atypical melanocytic proliferation": None},
    "PAD-UFES-20": {"ACK": AK, "BCC": BCC, "MEL": MEL, "NEV": NV, "SCC": SCC, "SEK": SK},
    "HAM10000 on the Hub": {"actinic_keratoses": None, "basal_cell_carcinoma": BCC, "dermatofibroma": DF}
    | {"benign_keratosis-like_lesions": PBK, "melanocytic_Nevi": NV, "melanoma": MEL, "vascular_lesions": VASC},
    "the archive, before levels": {"actinic keratosis": AK, "melanoma metastasis": MEL, "nevus spilus": NV}
    | {"angiokeratoma": VASC, "angioma": VASC, "pyogenic granuloma": VASC, "vascular lesion": VASC}
    | {"pigmented benign keratosis": PBK}
    | dict.fromkeys(("AIMP", "angiofibroma or fibrous papule", "epidermal nevus", "scar", "verruca", "other", "")),
    "the archive, by levels": {
        "Benign": None,
        "Benign:Benign melanocytic proliferations:Nevus:Nevus, Atypical, Dysplastic, or Clark": NV,
        "Benign:Benign melanocytic proliferations:Lentigo simplex": None,
        "Benign:Benign epidermal proliferations:Seborrheic keratosis:Seborrheic keratosis, Clonal": SK,
        "Benign:Benign epidermal proliferations:Pigmented benign keratosis": PBK,
        "Benign:Benign epidermal proliferations:Solar lentigo": PBK,
        "Benign:Benign epidermal proliferations:Epidermal nevus": None,
        "Benign:Benign soft tissue proliferations - Fibro-histiocytic:Dermatofibroma": DF,
        "Benign:Benign soft tissue proliferations - Fibro-histiocytic:Scar": None,
        "Benign:Benign soft tissue proliferations - Vascular": VASC,
        "Benign:Benign soft tissue proliferations - Vascular:Venous lake": VASC,
        "Indeterminate:Indeterminate epidermal proliferations:Solar or actinic keratosis": AK,
        "Indeterminate:Indeterminate melanocytic proliferations:Atypical Spitz tumor": None,
        "Malignant": None,
        "Malignant:Malignant adnexal epithelial proliferations - Follicular:Basal cell carcinoma:"
        "Basal cell carcinoma, Nodular": BCC,
        "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma in situ": SCC,
        "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma, Invasive": SCC,
        "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma, NOS": SCC,
        "Malignant:Malignant epidermal proliferations:Keratoacanthoma": SCC,
        "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma in situ:"
        "Squamous cell carcinoma in situ, Bowens disease": SCC,
        "Malignant:Collision - At least one malignant proliferation": None,
        "Benign:Benign epidermal proliferations:Lichen planus like keratosis": PBK,
        "Benign:Benign epidermal proliferations:Clear cell acanthoma": None,
        "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma in situ": MEL,
        "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma Invasive:Melanoma Invasive, Nodular": MEL,
        "Malignant:Merkel cell proliferation:Merkel cell carcinoma": None,
    },
}


@pytest.mark.parametrize("source", NAMES)
def test_each_name_of_a_source_stands_for_its_diagnosis_or_is_known_to_fit_none(source):
    assert {name: find(name) for name in NAMES[source]} == NAMES[source]


def test_what_is_known_of_an_image_settles_a_name_that_stands_for_two():
    assert find("akiec", archive_label=SCC) == SCC
    assert find("akiec", archive_label=AK) == AK
    assert find("akiec", archive_label=MEL) is None
    assert find("nv", archive_label=MEL) == NV


def test_a_name_that_nobody_knows_is_refused_with_the_nearest():
    with pytest.raises(KeyError):
        find("nevuss")
    with pytest.raises(UsageError, match=r"'nevuss' is none of the nine diagnoses. Did you mean 'nevus'"):
        diagnosis("nevuss")
    with pytest.raises(UsageError, match=r"'scar' is none of the nine"):
        diagnosis("scar")


def test_what_is_malignant():
    assert sorted(MALIGNANT) == [BCC, MEL, SCC]
    assert PRECURSOR == AK and PRECURSOR not in MALIGNANT


@pytest.mark.parametrize(
    ("name", "word"),
    [(name, "malignant") for name in ("malignant", "mel", "SCC")]
    + [(name, "benign") for name in ("Benign", "ACK", "bkl")]
    + [(name, None) for name in ("Indeterminate", "indeterminate/malignant", "akiec", "unknown", "scar", "")]
    + [("solar lentigo", "benign"), ("keratoacanthoma", "malignant")]
    + [
        ("Malignant:Merkel cell proliferation:Merkel cell carcinoma", "malignant"),
        ("Benign:Benign epidermal proliferations:Solar lentigo", "benign"),
        ("Indeterminate:Indeterminate epidermal proliferations:Solar or actinic keratosis", "benign"),
    ],
)
def test_whether_a_name_is_malignant_is_said_or_left_open_and_not_guessed(name, word):
    assert malignancy(name) == word


def test_akiec_is_malignant_where_the_image_is_known_to_show_a_carcinoma():
    assert [malignancy("akiec", archive_label=known) for known in (SCC, AK)] == ["malignant", "benign"]
    with pytest.raises(KeyError):
        malignancy("malign")


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [("nv", "melanocytic nevus", "nv"), ("akiec", "SCC", "SCC"), ("AK", "akiec", "AK"), ("akiec", "NV", None)]
    + [("bkl", "seborrheic_keratosis", "seborrheic_keratosis"), ("solar lentigo", "BKL", "solar lentigo")]
    + [("bkl", "df", None), ("unknown", "nv", "nv"), ("nv", "malignant", "nv"), ("", "unknown", "")]
    + [("melanoma", "nv", None), ("melanoma", "solar lentigo", None), ("nv", "nevuss", None)]
    + [("keratoacanthoma", "AK", None), ("solar lentigo", "seborrheic_keratosis", None)]
    + [("Benign:Lichen planus-like keratosis", "lichenoid keratosis", "Benign:Lichen planus-like keratosis")]
    + [
        ("SCC", "Malignant:Malignant epidermal proliferations:Keratoacanthoma", "SCC"),
        (
            "bkl",
            "Benign:Benign epidermal proliferations:Solar lentigo",
            "Benign:Benign epidermal proliferations:Solar lentigo",
        ),
    ],
)
def test_of_two_names_the_one_that_says_more_counts_unless_they_contradict_each_other(first, second, name):
    assert finer(first, second) == name
    other = finer(second, first)
    assert other == name or {finer(first, other), finer(second, other)} == {first, second}


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_names_that_the_documentation_accepts_are_accepted(page):
    lines = (REPOSITORY / page).read_text().splitlines()
    rows = {cells[1].strip(): cells[2] for line in lines if len(cells := line.split("|")) == 4}
    listed = {name: label for label in DIAGNOSES for name in re.findall("`([^`]+)`", rows[label])}
    assert len(listed) > 25
    assert {name: find(name) for name in listed} == listed
