// A button on every block of code that copies it. Without the clipboard's interface it selects the text.
for (const block of document.querySelectorAll(
  ".highlight-sh .highlight, .highlight-python .highlight"
)) {
  const code = block.querySelector("pre");
  const button = document.createElement("button");
  button.className = "copy";
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  block.append(button);
}
