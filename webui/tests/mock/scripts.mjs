// Texts that scripted sessions answer with.

/** Every width of UTF-8, combined and joined characters, and a line break. */
export const MIXED = 'Aé漢字🙂 e\u0301 👩‍👩‍👧 "q" \\ \n\nend.';

/** A reply with the kinds of blocks that the page draws. */
export const SHOWCASE = `Trim by **minimum id**, not by length. A length cap drops the oldest entries whether or not a reader still needs them; a minimum id lets you keep everything newer than the slowest live cursor.

\`\`\`python
async def trim(r, key, cursors):
    oldest = min(cursors, default="0-0")
    await r.xtrim(key, minid=oldest, approximate=True)  # cheap, and never cuts a reader off
\`\`\`

Run it after a generation settles, and let the key expire on its own a few minutes later so a late reader still finds its answer.

### What each rule keeps

| Rule | Keeps | Costs |
| --- | --- | --- |
| \`MAXLEN\` | the newest *n* entries | readers that lag |
| \`MINID\` | all after the slowest reader | memory, when one reader sleeps |

1. Read the slowest cursor.
2. Trim below it, *approximately*.
   - whole nodes only
   - so it stays cheap

> A reader that comes back after the window gets the merged text instead. 漢字 and 🙂 count by bytes, not by letters.
`;
