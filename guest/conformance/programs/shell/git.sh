#: group = "F"
#: summary = "git: init, commit, branch, merge, clone of a local repository, diff, gc, fsck"
#: with = ["/bin/bash"]
#: needs = ["/usr/bin/git"]
#: env = { GIT_AUTHOR_DATE = "2026-01-01T00:00:00Z", GIT_COMMITTER_DATE = "2026-01-01T00:00:00Z", GIT_PAGER = "cat" }
cd /tmp
git config --global user.name conformance; git config --global user.email c@example.org; git config --global init.defaultBranch main; git config --global advice.detachedHead false
git init -q repo; cd repo
for i in $(seq 1 200); do echo "content of file $i" >file$i; done; mkdir -p a/b; echo deep >a/b/c; ln -s file1 link; chmod +x file2
git add .; git commit -qm first; git log --oneline | cut -d' ' -f2; git rev-parse HEAD; git ls-files -s | head -n 3
git checkout -qb side; echo side >>file1; git commit -qam side; git checkout -q main; echo main >>file2; git commit -qam main; git merge -q -m merged side; git log --graph --oneline --format=%s
echo conflict-a >file3; git commit -qam a; git checkout -qb other HEAD~1; echo conflict-b >file3; git commit -qam b; git merge -q main; echo "merge $?"; git diff --name-only --diff-filter=U; git merge --abort
git clone -q . ../clone; cd ../clone; git rev-parse HEAD; git status --short | wc -l; ls | wc -l; readlink link; git fsck 2>&1 | tail -n 1; git gc -q; git count-objects -v | grep -e count -e packs; git show --stat HEAD~1 | tail -n 1
git clone -q --bare . ../bare.git; git push -q ../bare.git HEAD:refs/heads/pushed; git -C ../bare.git branch --list pushed; git archive HEAD a | tar t; git stash list; git grep -c 'file 19' | head -n 3; git bisect start -q >/dev/null 2>&1; git blame -s file1 | wc -l; git tag v1; git describe --tags
