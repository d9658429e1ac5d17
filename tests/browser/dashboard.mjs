// Drives the dashboard in a real Chromium, as somebody would who has an admin key: signs in, makes an
// experiment and a key, logs entries with it, watches them arrive, reads the report, compares two answers
// and revokes the key. On each page axe-core looks for what keeps people out. Ends with 1 at the first
// thing that is not as it should be.
//
// Run by tests/it/browser.rs, which sets:
//   TRIALOG_URL, TRIALOG_KEY   the server, and its admin key
//   TRIALOG_ENTRIES            a file with entries, one a line
//   TRIALOG_PROFILE            an empty folder for the browser
//   TRIALOG_CHROMIUM           the browser
//   TRIALOG_SCREENSHOTS        a folder for pictures of each page; none are made without it

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const { TRIALOG_URL, TRIALOG_KEY, TRIALOG_ENTRIES, TRIALOG_PROFILE, TRIALOG_CHROMIUM, TRIALOG_SCREENSHOTS } =
  process.env;
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const lines = (await readFile(TRIALOG_ENTRIES, "utf8")).split("\n").filter(Boolean);
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const SIZES = [360, 1280, 2560];
const SLUG = "alpaca-eval";

const context = await chromium.launchPersistentContext(TRIALOG_PROFILE, {
  executablePath: TRIALOG_CHROMIUM,
  headless: true,
  viewport: { width: 1280, height: 800 },
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
context.setDefaultTimeout(30_000);
const page = context.pages()[0] ?? (await context.newPage());

// Nothing may be asked of another host, run, or fail without a word.
const odd = [];
page.on("request", (request) => {
  if (!request.url().startsWith(`${TRIALOG_URL}/`)) odd.push(`asked for ${request.url()}`);
});
page.on("dialog", (dialog) => {
  odd.push(`a dialog: ${dialog.message()}`);
  dialog.dismiss();
});
page.on("pageerror", (error) => odd.push(`an error: ${error.message}`));
page.on("console", (message) => {
  // Of an answer that isn't 2xx, which some steps want, the browser itself says so.
  const isExpected = message.text().startsWith("Failed to load resource");
  if (message.type() === "error" && !isExpected) odd.push(`the console: ${message.text()}`);
});

const step = (words) => console.log(`${((performance.now()) / 1000).toFixed(1)} s: ${words}`);

// What axe finds on this page, light and dark, small and large.
const look = async (name) => {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    for (const width of SIZES) {
      await page.setViewportSize({ width, height: 800 });
      const where = `${name}, ${colorScheme}, ${width} px`;
      const [inner, scroll] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth]);
      assert.ok(scroll <= inner, `${where}: ${scroll} px wide`);
      if (width === 2560) continue;
      await page.evaluate(axe);
      const found = await page.evaluate((values) => window.axe.run(document, { runOnly: { type: "tag", values } }), RULES);
      const words = found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`);
      assert.deepEqual(words, [], where);
    }
    await page.setViewportSize({ width: 1280, height: 800 });
    if (TRIALOG_SCREENSHOTS) {
      if (name === "experiment") await page.setViewportSize({ width: 1280, height: 1640 });
      await page.screenshot({ path: `${TRIALOG_SCREENSHOTS}/${name}-${colorScheme}.png` });
      await page.setViewportSize({ width: 1280, height: 800 });
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  assert.deepEqual(odd, [], name);
};

const log = async (key, entries) => {
  const answer = await fetch(`${TRIALOG_URL}/experiment/${SLUG}/logs`, {
    method: "POST",
    headers: { "x-api-key": key, "content-type": "application/x-ndjson" },
    body: entries.join("\n"),
  });
  return answer.status;
};

step("signs in, by keyboard alone");
await page.goto(`${TRIALOG_URL}/ui/experiments`);
await look("sign-in");
await page.keyboard.type("not a key");
await page.keyboard.press("Enter");
await page.getByRole("alert").waitFor();
await page.getByLabel("API key").focus();
await page.keyboard.type(TRIALOG_KEY);
await page.keyboard.press("Tab");
await page.keyboard.press("Enter");
await page.getByRole("heading", { name: "Experiments" }).waitFor();
assert.equal(await page.evaluate(() => document.cookie), "", "no script sees the session");
assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length), 0);
await page.keyboard.press("Tab");
assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");

step("makes an experiment");
const variants = [...new Set(lines.map((line) => JSON.parse(line).variantKey))];
await page.getByRole("link", { name: "New experiment" }).click();
await page.getByLabel("Name", { exact: true }).fill(SLUG);
await page.getByLabel("Description").fill("Real answers of four systems to the same 805 prompts");
for (const [at, key] of variants.entries()) {
  await page.getByLabel(`Key of variant ${at + 1}`).fill(key);
}
await page.getByRole("button", { name: "One more variant" }).click();
await look("new-experiment");
await page.getByRole("button", { name: "Create" }).click();
await page.getByRole("heading", { name: SLUG }).waitFor();
await look("empty");

step("makes a key");
await page.getByRole("link", { name: "Keys" }).click();
await page.getByLabel("What it is for").fill("the evaluation");
await page.getByRole("textbox", { name: "Experiments" }).fill(`${SLUG}*`);
await look("keys");
await page.getByRole("button", { name: "Make the key" }).click();
const key = await page.locator("#key").textContent();
assert.match(key, /^tl_/);
for (const [id, words] of [
  ["curl", "curl"],
  ["python", "urllib"],
  ["javascript", "fetch"],
]) {
  const text = await page.locator(`#${id}`).textContent();
  assert.ok(text.includes(words) && text.includes(key) && text.includes(SLUG), text);
}
// A picture of a key would be one too many.
const shots = process.env.TRIALOG_SCREENSHOTS;
await page.evaluate(() => {
  for (const code of document.querySelectorAll("pre code")) code.textContent = code.textContent.replaceAll(/tl_\w+/g, "tl_…");
});
await look("made-key");
await page.goto(`${TRIALOG_URL}/ui/keys`);
assert.ok(!(await page.content()).includes(key), "it is shown once");

step("watches entries arrive");
await page.goto(`${TRIALOG_URL}/ui/experiment/${SLUG}/entries`);
await page.getByText("live", { exact: true }).waitFor();
assert.equal(await log(key, lines.slice(0, 8)), 200);
const rows = page.locator("#entries li");
await page.waitForFunction(() => document.querySelectorAll("#entries li").length === 8);
await page.getByRole("button", { name: "Pause" }).click();
assert.equal(await log(key, lines.slice(8, 16)), 200);
await page.getByText("paused, 8 waiting").waitFor();
assert.equal(await rows.count(), 8);
await page.getByRole("button", { name: "Go on" }).click();
await page.waitForFunction(() => document.querySelectorAll("#entries li").length === 16);
const nasty = {
  variantKey: variants[0],
  input: { '"><img src=x onerror=alert(1)>': "<script>alert(2)</script>" },
  output: { response: "<script>alert(3)</script> \u202egnp.exe" },
};
assert.equal(await log(key, [JSON.stringify(nasty)]), 200);
await page.getByText("<script>alert(3)</script>").waitFor();
await page.getByText("<script>alert(3)</script>").locator("..").getByRole("link").click();
await page.getByText("<script>alert(2)</script>").waitFor();
await page.getByText('"><img src=x onerror=alert(1)>').waitFor();
assert.equal(await page.locator("main img, main script").count(), 0);
for (let at = 16; at < lines.length; at += 400) {
  assert.equal(await log(key, lines.slice(at, at + 400)), 200);
}
await page.goto(`${TRIALOG_URL}/ui/experiment/${SLUG}/entries`);
await page.getByText("live", { exact: true }).waitFor();
await look("entries");
await page.getByLabel("Variant").selectOption(variants[1]);
await page.getByRole("button", { name: "Filter" }).click();
await page.getByText("live", { exact: true }).waitFor();
assert.deepEqual(await page.locator("#entries bdi.key").allTextContents(), Array(50).fill(variants[1]));

step("compares two answers");
await page.locator("#entries li a").first().click();
await page.getByRole("heading", { name: "Entry" }).waitFor();
await look("entry");
await page.getByRole("link", { name: "The same input in another variant" }).click();
await page.getByRole("heading", { name: "Side by side" }).waitFor();
assert.equal(await page.locator(".sides section").count(), 2);
const others = page.getByRole("navigation", { name: "Variants to compare with" }).getByRole("link");
assert.equal(await others.count(), variants.length - 1);
await others.last().click();
await page.waitForURL(/right=/);
await look("compare");

step("reads the report");
await page.goto(`${TRIALOG_URL}/ui/experiment/${SLUG}`);
await look("experiment");
const report = await page.evaluate(async (path) => (await fetch(path)).text(), `/ui/experiment/${SLUG}/report.txt`);
assert.ok(report.includes(variants[1]), report);
assert.ok((await page.locator(".sentences li").count()) > 0);
assert.ok((await page.locator("[data-plot=difference]").count()) >= 3);
if (shots) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.locator(".metrics > section").first().screenshot({ path: `${shots}/metric-${colorScheme}.png` });
    await page.setViewportSize({ width: 360, height: 740 });
    await page.evaluate(() => scrollTo(0, 0));
    await page.screenshot({ path: `${shots}/experiment-small-${colorScheme}.png` });
    await page.setViewportSize({ width: 1280, height: 800 });
  }
}

step("looks at the operation");
await page.getByRole("link", { name: "Operation" }).click();
await page.getByText("live", { exact: true }).waitFor();
// Something to be seen in pictures.
const traffic = setInterval(() => {
  if (!shots) return;
  for (const line of lines.slice(0, 1 + Math.random() * 12)) {
    fetch(`${TRIALOG_URL}/experiment/${SLUG}/log`, {
      method: "POST",
      headers: { "x-api-key": key, "content-type": "application/json" },
      body: line,
    }).catch(() => {});
  }
}, 60);
if (shots) await page.waitForTimeout(60_000);
await look("operation");
clearInterval(traffic);
// More experiments, for pictures: the last of them with too few of one variant, and an unknown one.
for (const [at, slug] of (shots ? ["chat-tone", "search-ranker", "summary-length", "triage"] : []).entries()) {
  const ask = (method, path, body) =>
    fetch(`${TRIALOG_URL}/experiment/${slug}${path}`, {
      method,
      headers: { "x-api-key": TRIALOG_KEY, "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  await ask("PUT", "", { variants: ["A", "B"] });
  const one = (n) => ({ variantKey: n % (at === 3 ? 5 : 2) ? "A" : "B", metrics: { score: n % 7 } });
  await ask("POST", "/logs", Array.from({ length: 400 * (at + 1) ** 2 }, (_, n) => one(n)));
  if (at === 3) await ask("POST", "/log", { variantKey: "C" });
}
await page.goto(`${TRIALOG_URL}/ui/experiments?q=alpaca`);
await page.getByRole("link", { name: SLUG, exact: true }).waitFor();
await page.goto(`${TRIALOG_URL}/ui/experiments`);
await look("experiments");
await page.goto(`${TRIALOG_URL}/ui/experiment/none`);
await page.getByRole("heading", { name: "Not here" }).waitFor();
await look("not-here");

step("revokes the key");
await page.getByRole("link", { name: "Keys" }).click();
const row = page.getByRole("row", { name: /the evaluation/ });
await row.locator("summary").click();
await row.getByRole("button", { name: "Revoke the evaluation" }).click();
await page.waitForFunction(() => !document.body.textContent.includes("the evaluation"));
assert.equal(await log(key, lines.slice(0, 1)), 401);

step("signs out");
await page.getByRole("button", { name: "Sign out" }).click();
await page.getByRole("heading", { name: "Sign in" }).waitFor();
await page.goto(`${TRIALOG_URL}/ui/experiment/${SLUG}`);
await page.getByRole("heading", { name: "Sign in" }).waitFor();
assert.deepEqual(odd, []);
await context.close();
step("all good");
