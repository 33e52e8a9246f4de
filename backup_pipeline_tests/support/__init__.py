"""What several tests share: sites, sets, real servers, browsers, documents. Helpers only; fixtures are in conftest."""
