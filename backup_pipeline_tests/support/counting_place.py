"""A place of objects that counts the requests that go to another one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from backup_pipeline.stores.objects.contract import ObjectPlace


class CountingPlace:
    """Passes every call on; see contract.ObjectPlace. A list counts once for each thousand names, as services page."""

    _PAGE = 1000

    def __init__(self, place: ObjectPlace) -> None:
        self._place = place
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()

    @property
    def requests(self) -> int:
        """How many requests there were; objects that are asked for locks and versions count too."""
        return self.calls.total()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._place, name)
        if not callable(found):
            return found
        return self._counted(name, found)

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            answer = call(*arguments, **options)
            pages = 1
            if name in ("list", "versions"):
                found = list(answer)
                answer, pages = iter(found), max(1, -(-len(found) // self._PAGE))
            with self._lock:
                self.calls[name] += pages
            return answer

        return counted
