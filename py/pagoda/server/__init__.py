"""OpenAI-compatible HTTP server over an EngineClient.

`settings.ServerSettings` declares the options, `app.build_app` the routes, `runner.run_server` the process life cycle.
This file imports nothing, so that `pagoda.config` can read the settings without importing aiohttp.
"""
