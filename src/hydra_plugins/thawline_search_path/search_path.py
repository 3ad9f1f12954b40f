"""Hydra finds plugins here and nowhere else; the folders are those of ``thawline.config_paths``.

This module is imported by every Hydra program of the environment, so it imports nothing heavy. Hydra executes it
without an entry in ``sys.modules``, so its annotations must not be postponed.
"""

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.plugins.search_path_plugin import SearchPathPlugin

from thawline.config_paths import conf_folder, own_folder, shipped_root


class ThawlineSearchPath(SearchPathPlugin):
    """The user's own folder before thawline's configuration, and the shipped experiments after it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra for every program; other programs are left alone."""
        ours = (str(conf_folder()), f"file://{conf_folder()}")
        main = [element for element in search_path.get_path() if element.path in ours]
        if not main:
            return
        own = own_folder()
        if own is not None:
            search_path.prepend("own", f"file://{own.absolute()}", SearchPathQuery(path=main[0].path))
        search_path.append("thawline", f"file://{shipped_root()}")
