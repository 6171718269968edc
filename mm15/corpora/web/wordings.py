"""How the questions about a screen are put. `{box}` is where a box of the user goes, `{name}` what is asked for."""

from __future__ import annotations

ASKED: dict[str, tuple[str, ...]] = {
    "ocr": (
        "What does the text in {box} say?",
        "Read the text at {box}.",
        "What is written in {box}?",
        "Give the text inside {box}.",
        "Transcribe the words in the region {box}.",
        "Which words are at {box}?",
    ),
    "icon_recognition": (
        "What icon is at {box}?",
        "Which icon is this: {box}?",
        "Name the icon in {box}.",
        "What does the icon at {box} stand for?",
        "What is the icon in the region {box}?",
    ),
    "widget_classification": (
        "What kind of element is at {box}?",
        "Which type of widget is {box}?",
        "Classify the element in {box}.",
        "What type of UI element is in the region {box}?",
        "Name the kind of widget at {box}.",
    ),
    "taperception": (
        "Can the element at {box} be tapped?",
        "Is {box} tappable?",
        "Would tapping {box} do anything?",
        "Does the element in {box} react to a tap?",
        "Is the element at {box} clickable?",
    ),
    "find_text": (
        'Where is the text "{name}"?',
        'Find the words "{name}" on the screen.',
        'Locate the text "{name}".',
        'Where does it say "{name}"?',
        'Give the place of the text "{name}".',
    ),
    "find_icon": (
        "Where is the {name} icon?",
        "Find the {name} icon.",
        "Locate the {name} icon on the screen.",
        'Give the place of the icon "{name}".',
        "Which region holds the {name} icon?",
    ),
    "find_widget": (
        'Where is the {type} "{name}"?',
        'Find the "{name}" {type}.',
        'Locate the {type} named "{name}".',
        'Give the place of the "{name}" {type} on the screen.',
        'Which region is the {type} "{name}"?',
    ),
    "description": (
        "Describe this screen.",
        "What is on this screen?",
        "Sum up what the screen holds.",
        "What do you see on this screen?",
        "Describe the page in the picture.",
    ),
    "widget_listing": (
        "List the {types} on this screen with their places.",
        "Which {types} are on the screen, and where?",
        "Find all {types} on this screen.",
        "Give every one of the {types} with its box.",
        "Enumerate the {types} of this page.",
    ),
}
EVERYTHING = "widgets"
"""What all types together are called in a listing."""
