"""Where a picture was made, by its number and by who is named for it."""

import pytest

from dermalert.data import provenance

BARCELONA = "Hospital Clínic de Barcelona"


@pytest.mark.parametrize(
    ("attribution", "source"),
    [
        (BARCELONA, BARCELONA),
        (f"Department of Dermatology, {BARCELONA}", BARCELONA),
        ("MILK study team", "MILK10k"),
        ("A clinic with four pictures", "A clinic with four pictures"),
        ("Anonymous", "newer ISIC archive"),
        ("", "newer ISIC archive"),
        (None, "newer ISIC archive"),
        ("HAM10000", "newer ISIC archive"),
        ("St Elsewhere " * 100, ("St Elsewhere " * 100)[:100]),
    ],
)
def test_an_image_of_the_newer_archive_is_its_clinics(attribution, source):
    assert provenance.origin("ISIC_9005347", "folder", attribution) == source


@pytest.mark.parametrize(
    ("image_id", "source"),
    [
        ("ISIC_0024305", "older ISIC archive"),
        ("ISIC_0024306", "HAM10000"),
        ("ISIC_0034320", "HAM10000"),
        ("PAT_1_2_3", "PAD-UFES-20"),
    ],
)
def test_a_number_that_tells_the_source_counts_before_the_attribution(image_id, source):
    assert provenance.origin(image_id, "folder", "MILK study team") == source


def test_without_a_number_the_attribution_counts_before_the_folder():
    assert provenance.origin("mole", "folder", "St Elsewhere") == "St Elsewhere"
    assert provenance.origin("mole", "folder", "unknown") == "folder"
    assert provenance.origin("mole", "folder", BARCELONA) == f"a folder {BARCELONA}"
    assert provenance.origin("mole", "HAM10000, scanned") == "a folder HAM10000, scanned"


def test_close_ups_are_a_source_of_their_own_under_their_clinics_terms():
    made = {"attribution": "MILK study team"}
    assert provenance.source("ISIC_9005347", "folder", **made) == "MILK10k"
    close_up = provenance.source("ISIC_9005347", "folder", image_type="clinical: close-up", **made)
    assert close_up == "MILK10k, clinical: close-up"
    assert provenance.terms(close_up) == provenance.ORIGINS["MILK10k"]
    assert provenance.terms("my clinic, clinical: close-up") is None


def test_of_two_tables_the_one_that_names_the_clinic_counts():
    assert provenance.finer("newer ISIC archive", BARCELONA) == BARCELONA
    assert provenance.finer(BARCELONA, "newer ISIC archive") == BARCELONA
    assert provenance.finer("newer ISIC archive", "a folder") == "newer ISIC archive"
