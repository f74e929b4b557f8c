"""asyncpg: one login, in the mode of the first argument; see ../logins. It knows no channel binding."""

import asyncio
import os
import ssl
import sys


async def main() -> bool:
    import asyncpg

    context = ssl.create_default_context(cafile=os.environ["LOGIN_CA"])
    direct = sys.argv[1] == "direct"
    if direct:
        context.set_alpn_protocols(["postgresql"])
    db = await asyncpg.connect(ssl=context, direct_tls=direct)
    try:
        return await db.fetchval("select current_user::text") == "app"
    finally:
        await db.close()


sys.exit(not asyncio.run(main()))
