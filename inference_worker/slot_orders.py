"""Carries out what nodes order about this worker's slots: save, restore, erase.

Copying takes the engine a moment between two steps; files are read and written beside it.
"""

from __future__ import annotations

import time

from inference_worker.engine import Engine, EngineError, SavedUnfit, SlotBusy
from inference_worker.slot_files import SlotFiles
from replay.prepare import Asked, Refused, Result
from replay.slot_order import ERASE, RESTORE, SAVE, SlotChanged, SlotOrder, is_file_name

NO_FOLDER = (
    "This server does not support slots action. Start it with `--slot-save-path`: "
    "here that is REPLAY_SLOT_SAVE_PATH at the worker"
)


def carried_out(engine: Engine, order: Asked, files: SlotFiles | None) -> Result:
    """What came of an order, or why it was refused; then nothing has changed, but that a cache may
    be empty where the engine failed to restore it."""
    if not isinstance(order, SlotOrder):
        return Refused("unknown", "this is no order about a slot")
    if files is None:
        return Refused("unsupported", NO_FOLDER)
    if not 0 <= order.slot < engine.model.slots:
        return Refused("invalid", "there is no such slot", param="id_slot")
    try:
        return _done(engine, order, files)
    except SlotBusy as error:
        return Refused("busy", str(error))
    except SavedUnfit as error:
        return Refused("invalid", str(error), param="filename")
    except OSError as error:
        return Refused("engine", f"the file of the slot: {error.strerror}")
    except EngineError as error:
        return Refused("engine", str(error))


def _done(engine: Engine, order: SlotOrder, files: SlotFiles) -> SlotChanged | Refused:
    """Raises OSError and EngineError."""
    began_at = time.monotonic()
    if order.action == ERASE:
        tokens, size = engine.erase_slot(order.slot), 0
    elif not is_file_name(order.filename):
        return Refused("invalid", "Invalid filename", param="filename")
    elif order.action == SAVE:
        saved = engine.save_slot(order.slot)
        tokens, size = len(saved.tokens), files.write(order.filename, saved)
    elif order.action == RESTORE:
        saved, size = files.read(order.filename)
        engine.restore_slot(order.slot, saved)
        tokens = len(saved.tokens)
    else:
        return Refused("unknown", f"this worker does not know how to {order.action} a slot")
    return SlotChanged(tokens, size, 1000 * (time.monotonic() - began_at))
