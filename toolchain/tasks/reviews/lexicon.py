"""Words of the review generator: what can be reviewed, what is said of it, and what is beside the point.

Lists run from common to rare; the generator draws from the front more often, so that a test text holds words that
training showed only a few times, as real text does.
"""

from __future__ import annotations

from dataclasses import dataclass

Words = tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """One kind of thing that people review.

    Attributes:
        items: The thing itself.
        aspects: Singular parts of it that an opinion can be about.
        plurals: Plural parts.
        facts: Sentences that say nothing about its worth.
        ordeals: Unpleasant experiences, as noun phrases.
        praises: What only a thing that is loved does to people, as clauses after "I".
    """

    items: Words
    aspects: Words
    plurals: Words
    facts: Words
    ordeals: Words
    praises: Words


def _words(text: str) -> Words:
    return tuple(" ".join(part.split()) for part in text.split(",") if part.strip())


def _lines(text: str) -> Words:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


#: Adjectives for any subject, by polarity: index 0 is against, 1 is in favour.
ADJECTIVES: tuple[Words, Words] = (
    _words("""dull, terrible, disappointing, awful, bland, boring, poor, weak, tedious, mediocre, clumsy, sloppy,
        forgettable, annoying, horrible, lifeless, lazy, dreadful, underwhelming, shoddy, uninspired, irritating,
        second-rate, flimsy, stale, dismal, lousy, grating, tiresome, half-baked, unpleasant, amateurish, atrocious,
        painful, abysmal, laughable, pathetic, lacklustre, insipid, dire, woeful, feeble, appalling, wretched, joyless,
        tacky, charmless, unbearable"""),
    _words("""excellent, wonderful, brilliant, great, superb, lovely, charming, impressive, delightful, clever,
        memorable, beautiful, terrific, satisfying, polished, fantastic, refreshing, outstanding, engaging, inspired,
        first-rate, remarkable, pleasant, splendid, elegant, rewarding, thoughtful, magnificent, marvellous,
        captivating, exceptional, flawless, likeable, dazzling, graceful, stellar, exquisite, top-notch, glorious,
        sublime, enchanting, immaculate, commendable, spot-on, masterful, sparkling, faultless, irresistible"""),
)

#: Nouns that judge the whole.
NOUNS: tuple[Words, Words] = (
    _words("""a disappointment, a mess, a letdown, a disaster, a bore, a waste of money, a failure, a chore, a dud,
        a flop, a slog, a rip-off, an embarrassment, a nightmare, a missed opportunity, a shambles, an insult,
        a misfire"""),
    _words("""a joy, a triumph, a gem, a treat, a delight, a success, a masterpiece, a pleasure, a winner, a bargain,
        a revelation, a classic, a knockout, a breath of fresh air, a steal, a marvel, a tour de force, a keeper"""),
)

#: Qualities that something is full of, or has none of.
QUALITIES: tuple[Words, Words] = (
    _words("""flaws, filler, clichés, problems, padding, clutter, annoyances, glitches, shortcuts, pretension,
        excuses, gimmicks, carelessness, blunders"""),
    _words("""charm, wit, warmth, style, imagination, energy, heart, flair, polish, character, care, finesse,
        elegance, inspiration"""),
)

#: What a subject did, in the past tense because that agrees with singular and plural alike.
DEEDS: tuple[Words, Words] = (
    _lines("""
        let everyone down
        fell flat
        missed the mark
        left me cold
        wore thin quickly
        never came alive
        dragged on and on
        failed to impress
        tested my patience
        fell apart halfway through
        left a bad taste
        did nothing for me
        put me to sleep
        squandered a good idea
        made us want to leave
        ran out of steam
        promised much and delivered little
        left plenty to be desired
        could not be rescued
        felt like a cheap copy
        spoiled an otherwise quiet evening
        never found a rhythm
    """),
    _lines("""
        won me over
        did not disappoint
        lived up to the praise
        hit the mark
        left us smiling
        kept me hooked
        exceeded every expectation
        justified the price
        stole the show
        worked like a dream
        never let us down
        made my week
        came together beautifully
        left me wanting more
        never put a foot wrong
        charmed the whole family
        deserved a standing ovation
        carried the whole thing
        silenced every doubt that I had
        rewarded all the attention
        felt like a small miracle
        never lost its grip
    """),
)

#: What a reviewer felt towards a subject.
FEELINGS: tuple[Words, Words] = (
    _words("hated, disliked, regretted, loathed, resented, despised, barely tolerated, soon grew tired of"),
    _words("loved, enjoyed, adored, admired, treasured, relished, warmly appreciated, soon fell for"),
)

INTENSIFIERS: Words = _words("""very, really, quite, truly, rather, utterly, mildly, thoroughly, surprisingly, somewhat,
    remarkably, deeply, a little, simply, decidedly, consistently, frankly, undeniably""")

#: "It is {} dull": each turns the adjective round.
NEGATORS: Words = _words("""not, not at all, hardly, never, far from, anything but, by no means, in no way,
    not remotely, scarcely, not the least bit, nowhere near""")

PEOPLE: Words = _words("""my sister, a colleague, my neighbour, the critics, my brother, a friend, everyone online,
    my partner, the man at the counter, our guide, a reviewer here, my flatmate""")

OPENERS: Words = _words("""Honestly, To be fair, For what it is worth, In the end, All told, Looking back, As far as I
    can tell, After a second try, On balance, If you ask me""")

#: Said after a judgement, or before it, without adding to it.
ASIDES: Words = _lines("""
    We went on a Tuesday.
    My sister had recommended it.
    I had an hour to spare.
    It was raining when we started.
    This was my second attempt.
    There were four of us.
    I paid for it myself.
    I write this a month later.
    It came up in conversation at work.
    I had read nothing about it beforehand.
    Your mileage may vary.
    That is all I have to say.
    I am no expert.
    We had a voucher.
    It was a present from my aunt.
    The old one lasted six years.
    I saw it mentioned in the newspaper.
    My cousin came along as well.
""")

DOMAINS: tuple[Domain, ...] = (
    Domain(
        _words("film, movie, comedy, drama, thriller, sequel, documentary, picture, remake, musical"),
        _words("""acting, plot, script, ending, dialogue, soundtrack, pacing, camera work, cast, editing, first half,
            lead performance"""),
        _words("performances, jokes, characters, visuals, songs, action scenes, costumes"),
        _lines("""
            It runs for about two hours.
            The story is set in Lisbon.
            We saw it at the late showing.
            It is based on a stage play.
            The director has made three others.
            There is a short scene after the credits.
        """),
        _words("""two hours I will never get back, a plot that a child could guess, three endings in a row,
            a car chase every ten minutes, jokes older than the cinema, another hero with a tragic past"""),
        _lines("""
            sat through the credits just to stay a little longer
            bought a ticket for the next showing on the way out
            forgot to touch the popcorn
            have quoted it at breakfast ever since
        """),
    ),
    Domain(
        _words("restaurant, place, bistro, diner, café, tasting menu, brunch, pizzeria, bakery"),
        _words("food, service, soup, bread, coffee, wine list, dining room, seafood, atmosphere, tasting plate, sauce"),
        _words("desserts, portions, starters, waiters, noodles, cocktails, vegetables"),
        _lines("""
            We had booked a table for six.
            The menu changes every month.
            It is next to the old station.
            They close at eleven.
            I ordered the set lunch.
            There is parking behind the building.
        """),
        _words("""a forty-minute wait for cold soup, a bill with two surprises in it, bread to build a house with,
            a waiter who forgot us twice, a table beside the toilets, fish that had seen better weeks"""),
        _lines("""
            wiped the plate with the last of the bread
            booked the next table before dessert arrived
            dream about that soup
            have taken every visitor there since
        """),
    ),
    Domain(
        _words("novel, book, memoir, biography, collection, mystery, trilogy, travelogue"),
        _words("prose, plot, opening, narrator, dialogue, translation, final third, world-building, premise, humour"),
        _words("characters, chapters, essays, twists, descriptions, footnotes"),
        _lines("""
            It has just over four hundred pages.
            I read it on the train.
            It was first published in Norwegian.
            Our reading group chose it in May.
            The chapters alternate between two narrators.
            I borrowed it from the library.
        """),
        _words("""four hundred pages of weather, a murderer I had named by page nine, adjectives by the truckload,
            a hero who explains everything twice, a dream sequence in every chapter, a moral on each page"""),
        _lines("""
            missed my stop two days in a row
            read until four in the morning
            started again the moment I finished
            have bought copies for half the office
        """),
    ),
    Domain(
        _words("phone, laptop, camera, speaker, tablet, watch, blender, vacuum cleaner, keyboard, headset"),
        _words("battery, screen, sound, software, design, build quality, app, hinge, manual, motor, microphone"),
        _words("buttons, controls, speakers, instructions, menus, cables"),
        _lines("""
            It arrived in two days.
            Mine is the grey one.
            I use it mostly at the office.
            It comes with a charger.
            I replaced a five-year-old model with it.
            It weighs about as much as a bag of sugar.
        """),
        _words("""a battery that dies before lunch, another update that breaks the camera, a charger sold separately,
            an app that wants my birthday, a fan like a jet engine, a help line that plays music for an hour"""),
        _lines("""
            threw the old one out the same evening
            have not looked at another brand since
            ordered a second one for my parents
            show it to people who did not ask
        """),
    ),
    Domain(
        _words("hotel, hostel, guest house, resort, apartment, campsite, spa, lodge"),
        _words("location, room, breakfast, bed, view, pool, reception, bathroom, garden, shuttle service"),
        _words("beds, rooms, towels, corridors, balconies, common areas"),
        _lines("""
            We stayed for three nights.
            It is ten minutes from the beach.
            Our room was on the second floor.
            Check-in starts at three.
            There is a tram stop outside.
            We travelled with two children.
        """),
        _words("""a view of the car park, a shower with two moods, walls thin enough to follow the neighbours' quarrel,
            a mattress with a long history, drums from the bar until dawn, breakfast from a vending machine"""),
        _lines("""
            cancelled the museum to stay by the pool
            asked whether they rent by the year
            extended the stay twice
            slept past noon for the first time in years
        """),
    ),
    Domain(
        _words("game, expansion, board game, puzzle, simulator, app, platformer, strategy game"),
        _words("combat, story, level design, music, multiplayer, tutorial, art style, interface, campaign, difficulty"),
        _words("controls, puzzles, quests, graphics, menus, bosses"),
        _lines("""
            I played about thirty hours.
            It supports up to four players.
            I bought it in the spring sale.
            It runs on an older machine.
            There are twelve levels.
            The studio is based in Warsaw.
        """),
        _words("""a loading screen for every door, the same cave forty times, a tutorial longer than the story,
            a shop where the ending should be, ten hours of fetching mushrooms, a boss with a million hit points"""),
        _lines("""
            looked up and it was morning
            called in late for just one more level
            finished it and started over at once
            made everyone I know install it
        """),
    ),
)
