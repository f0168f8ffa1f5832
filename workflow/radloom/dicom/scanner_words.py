"""The words that names of kernels, scanners and their software are made of: other words of a header may be a person's.

(0018,1210), (0008,0070), (0008,1090) and (0018,1020) are filled by scanners, but are free text, in which names, ids and
dates have been typed. So a text is taken only if all its words are known ones, or codes too short to be a name.
"""

from __future__ import annotations

import re

# A kernel's code: B30f, Br40d, I26f, FC08, 11H, 32, Xy40u3.
_KERNEL_CODE = re.compile(r"[A-Za-z]{0,2}[0-9]{1,3}([A-Za-z]{1,2}[0-9]?)?")
# Letters alone: A, L; YA, EB, SB of Philips, AA of United Imaging.
_KERNEL_LETTERS = re.compile(r"[A-Z]|[ABCELSUXY][A-E]")
_SEPARATORS = re.compile(r"[ _./,:()+-]+")
_KERNEL_WORDS = frozenset(
    """
    standard stand stnd std soft softer smooth sharp vsharp vsoft usharp ultra medium detail lung bone boneplus
    plus edge chst chest hd hdlung veo experimental body filter tissue brain head abdomen abd liver cardiac
    vascular heart angio spine neck sinus ear iac inner high low res resolution hires uhr hr hrct normal fine
    extra asir asiv asirv assr clear truefidelity dlir imr imrv idose idosel ir aidr aice firststar first mbir fbp
    qds adct admire safire iris sure fluoro pet spect ac mar omar smar routine ct calcium stent opt optb opta
    recon kernel sst ssf sn vb va rb sl ramp lak hann hamming shepp logan cosine xca xcb xcc xres
    enhanced enhance lcd piqe spectral
    """.split()  # noqa: SIM905 - a list would take a line a word
)
_SCANNER_WORDS = frozenset(
    """
    siemens healthineers general electric ge healthcare medical systems system philips picker marconi elscint
    canon toshiba hitachi fujifilm fuji neusoft uih united imaging shimadzu neurologica samsung varian elekta
    accuray minfound anke imatron xoran planmeca carestream dental health vatech sirona newtom soredex morita mfg
    corp corporation inc ltd gmbh co company limited sciences international technologies technology
    instrumentarium prexion myray kavo brainlab medtronic ziehm adac cps ct pet tof spect mi mr rt and in as
    somatom definition edge flash force drive sensation emotion spirit scope perspective confidence cardiac open
    duo go up now all top sim pro platform cite ceed serve creed plus volume zoom access balance art biograph mct
    vision quadra trinion horizon truepoint symbia intevo naeotom alpha peak prime dual source lightspeed
    brightspeed hispeed highspeed prospeed discovery optima revolution apex frontier evo act ascend maxima vct
    xtra ultra qxi select elite advantage speed edition gsi hde hdx omni iq ste rxi nxi nxt zxi fxi lxi dxi cti
    advance expert genesis infinia hawkeye power brilliance big bore ict iqon spectral incisive ingenuity core
    flex vereos digital gemini gxl idt precedence brightview slice slices mxtwin twin aura tomoscan secura acuity
    acqsim ultraz acqsimct marquis air aquilion one lb cx lightning start rxl exceed precision insight asteion
    activion alexion celesteion xvision cartesion multi super four auklet express tsx supria grande scenaria view
    eclos presto pronto robusto radix fct speedia uct umi anatom neuviz ace glory epoch essence classic insitum
    ceretom bodytom omnitom atlas scintcare truebeam halcyon ethos tomotherapy radixact hi onrad linac synergy xvi
    obi syngo lightspeedapps lightspeedverrel hispeedapps brightspeedapps apps verrel gmp sles revo qin bsd kiowa
    coev vareap vamp sp er beta release version rev build patch hotfix sw software helios ice jedi mars pulse step
    series acts brivo sytec oncology cxl xpress panorama insitumct on board imager cat accuitomo promax orthophos
    galileos pax exam fluorospot compact explore inveon ebt star hiq performix nms sinovision sms dabi atlante nim
    mediso bioscan bruker mbf pinehd bluehills ltx sps ebw ipatient lx fx dx zx catphan
    """.split()  # noqa: SIM905 - a list would take a line a word
)
_SHORT = 2  # letters that may be part of any code, as VA40C, 06MW03.5
_LONG_NUMBER = re.compile(r"[0-9]{6}")
_DATE = re.compile(r"(?<![0-9])(19|20)[0-9]{2}[-./][0-9]{1,2}[-./][0-9]|[0-9][-./](19|20)[0-9]{2}(?![0-9])")


def is_kernel(text: str) -> bool:
    """Tell whether a text can be nothing but a kernel's name: codes and known words, as `BODY FILTER/STANDARD`."""
    parts = [part for part in _SEPARATORS.split(text) if part]
    if sum(part.isdigit() for part in parts) > 1:
        return False  # a date
    return bool(parts) and all(
        _KERNEL_CODE.fullmatch(part)
        or _KERNEL_LETTERS.fullmatch(part)
        or re.sub("[0-9]{1,2}$", "", part.lower()) in _KERNEL_WORDS
        for part in parts
    )


def is_scanner(text: str) -> bool:
    """Tell whether a text can be nothing but the name of a maker, a model or a software: known words and versions."""
    words = [word.lower() for word in re.findall("[A-Za-z]+", text)]
    known = [word in _SCANNER_WORDS for word in words]
    return (
        all(one or len(word) <= _SHORT for one, word in zip(known, words, strict=True))
        and (any(known) or any(char.isdigit() for char in text))
        and not _LONG_NUMBER.search(text)
        and not _DATE.search(text)
    )
